"""What all of OpenRouter's dialects have in common: model names, routing, ids, usage with cost, errors.

The dialects themselves are flavours of their packages: `chat.openrouter`, `completions.openrouter`.
"""
