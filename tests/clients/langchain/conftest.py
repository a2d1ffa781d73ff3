"""Which of LangChain's standard tests fail today, and why. One that starts to pass fails until it is taken out."""

from __future__ import annotations

import pytest

MERGED = "langchain-deepseek merges a streamed trace with the first call: both have the index 0"

EXPECTED_FAILURES = {
    "TestChatDeepSeek": {
        "test_tool_calling[model1]": MERGED,
    },
    "TestChatAnthropic": {},
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.name == "standard_suite.py" and item.parent is not None:
            reason = EXPECTED_FAILURES[item.parent.name].get(item.name)
            if reason is not None:
                item.add_marker(pytest.mark.xfail(reason=reason, strict=True))
