"""Clusters as token engines: vLLM, SGLang and llama.cpp are given token ids and give token ids back.

Everything between a request and those ids is ours (`backends/tokens`), so that every feature is the same whoever
computes; `backend` is where to begin reading.
"""
