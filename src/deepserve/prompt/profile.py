"""Release profiles: the fixed texts around a conversation, which differ between checkpoints of one architecture.

A checkpoint's own configuration does not say which texts it was trained with; whoever loads it names the profile.
The vendor's texts are not part of this project: they are read at start from its package `deepseek-recipe`
(MIT, https://github.com/deepseek-ai/deepseek-recipe) by rendering minimal conversations, and checked by digest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from functools import cache
from typing import Final, Literal

import msgspec

from deepserve.core.errors import ConfigurationError
from deepserve.core.request import Effort
from deepserve.prompt.special_tokens import BOS, USER

ProfileName = Literal["0731", "preview", "mini"]

PROFILE_NAMES: Final[tuple[ProfileName, ...]] = ("0731", "preview", "mini")


class Profile(msgspec.Struct, frozen=True, kw_only=True):
    """The texts of one release.

    effort_prefixes      written right after the begin token when the model is to think
    tools_head, _tail    around one JSON line for each tool; in them, spelled special tokens are special tokens
    json_object          appended to the system text when any JSON is asked for
    json_schema          the same for a schema, whose JSON follows
    has_tasks            the checkpoint was trained on the quick-task tokens
    """

    name: ProfileName
    effort_prefixes: Mapping[Effort, str]
    tools_head: str
    tools_tail: str
    json_object: str
    json_schema: str
    has_tasks: bool = False


MINI: Final = Profile(
    name="mini",
    effort_prefixes={"low": "", "high": "Think carefully.\n\n", "max": "Think as long as needed.\n\n"},
    tools_head="## Tools\n\n",
    tools_tail="\n\nCall a tool only when it fits.\n",
    json_object="\n\n## Response Format\n\nJSON only.",
    json_schema="\n\n## Response Format:\n\n",
)
"""Our own short texts, for models that are too small to carry half a kilobyte of instructions in each prompt."""

_DIGESTS: Final = {
    "the text for effort high": "f7a24f3b3050d4a83781e9b755b316aae2ec1d9dc87562541d90bcb04d7350f7",
    "the text for effort max": "53fb31b8392ec5b4a926481943efc67636748f137c1a49d493a7af4d4fa55d2c",
    "the head of the tools section": "c7c9042638154a237b5d1bd48be772374a35a4d24c5cacfd1ffbd92703da329c",
    "the tail of the tools section": "690702850fe256512cb1ee67c4e436ecb3e735c71ebee77ca45ff357a75fb5a7",
    "the instruction for a JSON object": "34751a8fa185b0764ecf5c12cfcfb9792de54e229e60b64ef14f302e312d90e2",
    "the instruction for a JSON schema": "6d26ed6fec4035e03aa2e63f3415e4fbc26261ff7944a721f3158e02fc54cbd2",
}
"""SHA-256 of the vendor's texts as released."""


def load_profile(name: ProfileName) -> Profile:
    """The profile of that name; raises ConfigurationError when the vendor's texts are missing or not as released."""
    match name:
        case "mini":
            return MINI
        case "0731":
            high, maximum, head, tail, json_object, json_schema = _vendor_texts()
            prefixes: Mapping[Effort, str] = {"low": "", "high": high, "max": maximum}
        case "preview":
            # The text that the later release gives for `high` was written for `max`.
            maximum, _, head, tail, json_object, json_schema = _vendor_texts()
            prefixes = {"low": "", "high": "", "max": maximum}
    return Profile(
        name=name,
        effort_prefixes=prefixes,
        tools_head=head,
        tools_tail=tail,
        json_object=json_object,
        json_schema=json_schema,
        has_tasks=True,
    )


@cache
def _vendor_texts() -> tuple[str, ...]:
    """The texts in the order of `_DIGESTS`, cut out of rendered conversations."""
    try:
        import deepseek_recipe as recipe
    except ImportError as error:
        raise ConfigurationError(
            "the prompt texts of the official V4 releases come from the package deepseek-recipe, "
            'which is not installed: pip install "deepserve[v4]"'
        ) from error

    encoding = recipe.DeepseekV4Encoding()
    question = [recipe.UserMessage("?")]

    def system_text(**options: object) -> str:
        # Any: the stubs spell out each keyword; a wrong one fails at once.
        conversation = recipe.Conversation(question, **options)  # type: ignore[arg-type]
        prompt: str = encoding.render_conversation(conversation).prompt
        return prompt.removeprefix(BOS).partition(USER)[0]

    tool = recipe.ToolDefinition("f")
    tools = system_text(thinking_mode=False, tools=[tool])
    head, _, tail = tools.partition('{"name": "f", "description": "", "parameters": null}')
    texts = (
        system_text(reasoning_effort="high"),
        system_text(reasoning_effort="max"),
        head.removeprefix("\n\n"),
        tail,
        system_text(thinking_mode=False, response_format="json_object"),
        system_text(thinking_mode=False, response_schema={}).removesuffix("{}"),
    )
    for text, (what, digest) in zip(texts, _DIGESTS.items(), strict=True):
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            raise ConfigurationError(
                f"deepseek-recipe {recipe.__version__} gives another wording of {what} than the V4 releases were "
                'trained with; install the version this project was written for: pip install "deepserve[v4]"'
            )
    return texts
