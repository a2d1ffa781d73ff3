"""Answers from other services, in any of their dialects: DeepSeek, its resellers, clusters, another deepserve."""
