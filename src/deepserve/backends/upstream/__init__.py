"""Answers from other services that speak Chat Completions: DeepSeek, its resellers, clusters, another deepserve."""
