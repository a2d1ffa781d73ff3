"""The Responses dialect of OpenAI, as api.deepseek.com speaks it and as Codex and the OpenAI SDKs expect it.

Pure functions: bodies to `core` and back. What earlier responses said comes in through a `Recall`; nothing is stored
here.
"""
