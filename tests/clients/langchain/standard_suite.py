"""LangChain's standard suites for chat models, over its own classes for DeepSeek and Anthropic.

Run by test_langchain.py in a process of its own, because they need pytest plugins that no other test should see.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel
from langchain_deepseek import ChatDeepSeek
from langchain_tests.integration_tests import ChatModelIntegrationTests
from openai import DefaultAsyncHttpxClient, DefaultHttpxClient
from typing_extensions import override

SERVER = os.environ["DEEPSERVE_URL"]


@cache
def shared_http_clients() -> dict[str, Any]:
    """One pair for all tests: each would otherwise read the certificates of the machine anew, twice."""
    return {"http_client": DefaultHttpxClient(), "http_async_client": DefaultAsyncHttpxClient()}


class _Suite(ChatModelIntegrationTests):
    @property
    @override
    def model_override_value(self) -> str:
        return "deepseek-v4-flash"


class TestChatDeepSeek(_Suite):
    @property
    @override
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatDeepSeek

    @property
    @override
    def chat_model_params(self) -> dict[str, Any]:
        fields = {"model": "deepseek-v4-pro", "api_key": "sk-local", "base_url": SERVER, "max_retries": 0}
        return fields | shared_http_clients()

    @property
    @override
    def supports_json_mode(self) -> bool:
        return True


class TestChatAnthropic(_Suite):
    """With thinking stated: unless told of it, this class turns the answer into a string and loses traces."""

    @property
    @override
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatAnthropic

    @property
    @override
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": "deepseek-v4-pro",
            "api_key": "sk-local",
            "base_url": f"{SERVER}/anthropic",
            "max_retries": 0,
            "max_tokens": 4096,
            "thinking": {"type": "enabled", "budget_tokens": 2048},
        }
