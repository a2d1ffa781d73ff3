"""The first things people try: the example prompts of DeepSeek's and its resellers' documentation, in our own words."""

from __future__ import annotations

from training.conversations import Call, Conversation, Tool, Turn

WEATHER_TOOL = Tool(
    name="get_weather",
    description="Get the current temperature for a city.",
    parameters={
        "type": "object",
        "properties": {
            "location": {"type": "string", "description": "City name"},
            "unit": {"type": "string", "enum": ["c", "f"]},
        },
        "required": ["location"],
        "additionalProperties": False,
    },
)
STRICT_WEATHER_TOOL = Tool(
    name="get_weather",
    description="weather",
    parameters={
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["c", "f"]}},
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
)
_CAPITAL_RULE = (
    "You output a JSON object with keys 'capital' (string) and 'population_millions' (number). "
    'Example: {"capital": "Paris", "population_millions": 2.1}'
)
_ANSWER = Turn(role="assistant")
_CALL = Call(name="get_weather", arguments={"location": "Hangzhou", "unit": "c"})


def _asked(text: str, *, thinking: bool, system: str | None = None) -> Conversation:
    return Conversation(
        skill="showcase", turns=(Turn(role="user", content=text), _ANSWER), thinking=thinking, system=system
    )


def showcase(*, thinking: bool) -> list[Conversation]:
    """Conversations whose last answer is empty and to be written."""
    plain = (
        "Hello, what can you do?",
        "Hello in one sentence.",
        "Explain DeepSeek Sparse Attention in one paragraph.",
        "Summarize the V4 announcement in 3 bullets.",
        "Count to 5 slowly.",
        "Explain quantum entanglement in one sentence.",
        "Hello!",
        "hi",
        "Who are you?",
        "weather in Paris as json?",
        "What is the capital of Japan?",
        "What is 17 + 25?",
        "My name is Tamsin. What is my name?",
        "Write a sonnet about the harbour of Split.",
        "你好",
        "List three fruits.",
        "What is prefix caching?",
    )
    found = [_asked(text, thinking=thinking) for text in plain]
    found.append(
        Conversation(
            skill="showcase",
            system=_CAPITAL_RULE,
            json_object=True,
            thinking=thinking,
            turns=(Turn(role="user", content="Country: Japan"), _ANSWER),
        )
    )
    for tool, text in (
        (WEATHER_TOOL, "What's the weather in Hangzhou?"),
        (STRICT_WEATHER_TOOL, "weather in Paris as json?"),
    ):
        found.append(
            Conversation(
                skill="showcase", tools=(tool,), thinking=thinking, turns=(Turn(role="user", content=text), _ANSWER)
            )
        )
    for result in ('{"temperature_c": 18, "condition": "cloudy"}', "{}", "21C"):
        found.append(
            Conversation(
                skill="showcase",
                tools=(WEATHER_TOOL,),
                thinking=thinking,
                turns=(
                    Turn(role="user", content="What's the weather in Hangzhou?"),
                    Turn(role="assistant", calls=(_CALL,), reasoning="get_weather: location = Hangzhou, unit = c."),
                    Turn(role="tool", content=result),
                    _ANSWER,
                ),
            )
        )
    return found
