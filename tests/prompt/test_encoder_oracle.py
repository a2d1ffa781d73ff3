"""Rendered prompts are the vendor's, byte for byte, special tokens in the same places.

Deliberate differences stand in docs/prompt-format.md; none of them can occur in these conversations.
"""

from __future__ import annotations

import random
from types import ModuleType
from typing import Any

import pytest

from deepserve.core.request import ResponseFormat
from deepserve.prompt.encoder import encode
from deepserve.prompt.profile import load_profile
from deepserve.prompt.segments import Prompt, Special
from deepserve.prompt.segments import Text as TextSegment
from tests.prompt.corpus import Body, as_request, random_body
from tests.prompt.requests import OFF, request, system, user

NUM_CONVERSATIONS = 3000


def spans(prompt: Prompt) -> list[tuple[int, int]]:
    """Where special tokens stand in the rendered text."""
    found: list[tuple[int, int]] = []
    position = 0
    for segment in prompt.segments:
        match segment:
            case Special(token):
                found.append((position, position + len(token)))
                position += len(token)
            case TextSegment(text):
                position += len(text)
    return found


def assert_equal(ours: Prompt, theirs: Any, seed: int) -> None:
    assert ours.text == theirs.prompt, f"seed {seed}"
    assert spans(ours) == theirs.special_ranges, f"seed {seed}"


def vendor_conversation(recipe: ModuleType, body: Body) -> Any:
    """The body as the package's own values, after what its server does to a request first.

    That is: joining text parts, leaving reasoning out of chat mode, and filling lost reasoning in with nothing when
    the request offers tools.
    """
    thinks = body["thinking"]["type"] == "enabled"
    offers = bool(body.get("tools")) and body.get("tool_choice") != "none"
    messages = []
    for message in body["messages"]:
        content = message["content"]
        text = content if isinstance(content, str) else "\n\n".join(part["text"] for part in content)
        match message["role"]:
            case "system":
                messages.append(recipe.SystemMessage(text))
            case "user":
                messages.append(recipe.UserMessage(text))
            case "latest_reminder":
                messages.append(recipe.LatestReminderMessage(text))
            case "tool":
                messages.append(recipe.ToolMessage(text, message["tool_call_id"]))
            case "assistant":
                reasoning = message.get("reasoning_content") if thinks else None
                if reasoning is None and thinks and (offers or message.get("prefix")):
                    reasoning = ""
                calls = [
                    recipe.ToolCall(call["id"], call["function"]["name"], call["function"]["arguments"])
                    for call in message.get("tool_calls", ())
                ]
                messages.append(recipe.AssistantMessage(text, reasoning, calls or None, message.get("prefix", False)))
    tools = [
        recipe.ToolDefinition(
            tool["function"]["name"], tool["function"].get("description"), tool["function"].get("parameters", {})
        )
        for tool in body.get("tools", ())
    ]
    choice = body.get("tool_choice", "auto")
    if not isinstance(choice, str):
        tools = [tool for tool in tools if tool.name == choice["function"]["name"]]
        choice = "required"
    return recipe.Conversation(
        messages,
        thinking_mode=thinks,
        tools=tools,
        tool_choice=choice,
        reasoning_effort=body.get("reasoning_effort"),
        response_format=body.get("response_format", {}).get("type", "text"),
    )


def test_thousands_of_conversations_render_as_the_vendor_renders_them(recipe: ModuleType) -> None:
    encoding, profile = recipe.DeepseekV4Encoding(), load_profile("0731")
    for seed in range(NUM_CONVERSATIONS):
        body = random_body(random.Random(seed), is_orderly=False)
        theirs = encoding.render_conversation(vendor_conversation(recipe, body))
        assert_equal(encode(as_request(body), profile), theirs, seed)


def test_whole_requests_render_as_the_vendor_serves_them(recipe: ModuleType) -> None:
    """Through its Chat front door: what it does to a request before rendering is checked as well."""
    encoding, profile, options = recipe.DeepseekV4Encoding(), load_profile("0731"), recipe.ConversionOptions()
    num_compared = 0
    for seed in range(NUM_CONVERSATIONS):
        body = random_body(random.Random(seed), is_orderly=True)
        try:
            converted = recipe.ChatCompletionRequest(body).convert(options)
        except recipe.ConversionError:
            continue
        prompt = encode(as_request(body), profile)
        assert_equal(prompt, encoding.render_conversation(converted.conversation), seed)
        assert_start(recipe, prompt, converted.parsing_options, seed)
        theirs = converted.inference_options.output_constraint
        kind = theirs.kind.replace("tool_call_required", "required_tool_call") if theirs is not None else None
        assert (prompt.constraint.kind if prompt.constraint is not None else None) == kind, f"seed {seed}"
        num_compared += 1
    assert num_compared > NUM_CONVERSATIONS // 2


def assert_start(recipe: ModuleType, prompt: Prompt, options: Any, seed: int) -> None:
    """The decoder will begin where the package's parser begins."""
    stage = recipe.ThinkingInitialStage
    expected = [
        (stage.ReasoningStart, "reasoning"),
        (stage.ReasoningContinuation, "reasoning_continued"),
        (stage.ContentContinuation, "text_continued"),
    ]
    assert prompt.start.offers_tools == options.parse_tool_calls, f"seed {seed}"
    if options.starts_in_tool_calls:
        assert prompt.start.stage == "tool_calls", f"seed {seed}"
    elif options.thinking_initial_stage is not None:
        stages = [ours for theirs, ours in expected if theirs == options.thinking_initial_stage]
        assert [prompt.start.stage] == stages, f"seed {seed}"
    else:
        # The package has no continued stage without thinking; see the table of differences.
        assert prompt.start.stage in ("text", "text_continued"), f"seed {seed}"


def test_schemas_are_shown_as_the_vendor_shows_them(recipe: ModuleType) -> None:
    profile, options = load_profile("0731"), recipe.ConversionOptions()
    schema = {"type": "object", "properties": {"é": {"type": "string", "enum": ["<think>", 1.0]}}, "required": ["é"]}
    body: Body = {
        "model": "DeepSeek-V4-Pro",
        "messages": [{"role": "system", "content": "S"}, {"role": "user", "content": "u"}],
        "thinking": {"type": "disabled"},
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    }

    converted = recipe.ChatCompletionRequest(body).convert(options)
    theirs = recipe.DeepseekV4Encoding().render_conversation(converted.conversation)
    form = ResponseFormat(kind="json_schema", schema=schema)
    assert_equal(encode(request(system("S"), user("u"), thinking=OFF, response_format=form), profile), theirs, 0)


@pytest.mark.parametrize("seed", range(40))
def test_strict_tools_have_their_schema_in_the_vendors_order(recipe: ModuleType, seed: int) -> None:
    rng = random.Random(seed)

    def shuffled(schema: Body) -> Body:
        keys = list(schema)
        rng.shuffle(keys)
        return {key: schema[key] for key in keys}

    def schema(depth: int) -> Body:
        match rng.randrange(6 if depth else 1):
            case 0:
                names = rng.sample("abcdef", rng.randint(1, 3))
                properties = {name: schema(depth + 1) if depth < 3 else {"type": "string"} for name in names}
                return shuffled(
                    {
                        "type": "object",
                        "properties": properties,
                        "required": names,
                        "additionalProperties": False,
                        "description": "d",
                    }
                )
            case 1:
                return shuffled({"type": "string", "description": "d", "pattern": "x", "format": "email"})
            case 2:
                return shuffled({"type": "string", "description": "d", "enum": ["a", "b"]})
            case 3:
                return shuffled(
                    {
                        "type": "number",
                        "description": "d",
                        "const": 1,
                        "default": 1,
                        "minimum": 0.5,
                        "maximum": 9,
                        "exclusiveMinimum": 0,
                        "exclusiveMaximum": 10,
                        "multipleOf": 1,
                    }
                )
            case 4:
                return shuffled({"type": "array", "items": {"description": "i", "type": "integer"}, "description": "d"})
            case _:
                return shuffled(
                    {"anyOf": [{"type": "null"}, {"description": "x", "type": "boolean"}], "description": "d"}
                )

    function = {"name": "f", "strict": True, "parameters": schema(0)}
    body: Body = {
        "model": "DeepSeek-V4-Pro",
        "messages": [{"role": "user", "content": "u"}],
        "thinking": {"type": "disabled"},
        "tools": [{"type": "function", "function": function}],
    }
    converted = recipe.ChatCompletionRequest(body).convert(recipe.ConversionOptions())
    theirs = recipe.DeepseekV4Encoding().render_conversation(converted.conversation)
    assert_equal(encode(as_request(body), load_profile("0731")), theirs, seed)
