"""Runware's task API: arrays of tasks over HTTP and WebSocket, as its SDKs speak it for `textInference`.

Documented at https://runware.ai/docs/models/deepseek-v4-pro and /docs/platform (read 2026-11).
"""
