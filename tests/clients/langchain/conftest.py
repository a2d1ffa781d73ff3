"""Which of LangChain's standard tests fail today, and why. One that starts to pass fails until it is taken out."""

from __future__ import annotations

import pytest

NOT_FORCED = "the server does not force a tool call yet"
MERGED = "langchain-deepseek merges a streamed trace with the first call: both have the index 0"

EXPECTED_FAILURES = {
    "TestChatDeepSeek": {
        "test_structured_few_shot_examples": NOT_FORCED,
        "test_structured_output[pydantic]": NOT_FORCED,
        "test_structured_output[typeddict]": NOT_FORCED,
        "test_structured_output[json_schema]": NOT_FORCED,
        "test_structured_output_async[pydantic]": NOT_FORCED,
        "test_structured_output_async[typeddict]": NOT_FORCED,
        "test_structured_output_async[json_schema]": NOT_FORCED,
        "test_structured_output_pydantic_2_v1": NOT_FORCED,
        "test_structured_output_optional_param": NOT_FORCED,
        "test_unicode_tool_call_integration": NOT_FORCED,
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
