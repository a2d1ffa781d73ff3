"""Answers from other services, in Chat or Messages: DeepSeek, its resellers, clusters, another deepserve."""
