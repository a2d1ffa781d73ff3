"""The row of this service among Chat's flavours, and its fields. Facts only."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from deepserve.dialects.chat.fields import REFUSED as CHAT_REFUSED
from deepserve.dialects.chat.flavour import DEEPSEEK
from deepserve.dialects.deepseek import Level

EFFORTS: Mapping[str, Level] = {
    "none": "none",
    "minimal": "high",
    "low": "high",
    "medium": "high",
    "high": "high",
    "xhigh": "max",
    "max": "max",
}
"""The service lists `high` and `xhigh` for V4, and maps the others to the nearest."""

REFUSED: Mapping[str, str] = {
    **{name: why for name, why in CHAT_REFUSED.items() if name != "web_search_options"},
    "preset": "this server keeps no presets; send the fields themselves",
}
"""Fields that promise something this server cannot do, and what to use instead."""

IGNORED: Mapping[str, str] = {
    "cache_control": "the prefix cache finds shared prefixes by itself",
    "debug": "no upstream service gets another body",
    "deferred_tools": "every tool is in the prompt from the start",
    "image_config": "answers are text",
    "messages[].name": "the prompt format has no place for the names of participants",
    "metadata": "answers are not stored",
    "modalities": "answers are text",
    "models[]": "a model that this server does not have; the next one is asked",
    "model:free": "there is no free tier; the answer costs what the model costs",
    "plugins[].engine": "what searches is the operator's choice",
    "plugins[].max_uses": "one search is made, before the answer",
    "plugins[].mode": "a setting of search services that are not used here",
    "plugins[].x_search": "nobody here searches X",
    "plugins[].context-compression": "prompts are never cut; one that does not fit is refused",
    "plugins[].file-parser": "files are not read; the prompt says that there was one",
    "plugins[].moderation": "no moderation takes place",
    "plugins[].response-healing": "answers are judged, not repaired; `x-deepserve-validated` says what was found",
    "prediction": "a hint about speed; the answer is the same without it",
    "prompt_cache_key": "the prefix cache finds shared prefixes by itself",
    "prompt_cache_options": "the prefix cache finds shared prefixes by itself",
    "provider.options": "no provider here has options of its own",
    "provider.order[]": "a provider that this server does not have; those it has answer",
    "reasoning.context": "the prompt format decides which traces the model sees again",
    "reasoning.mode": "a setting of another vendor's models",
    "reasoning.summary": "the whole trace is returned, no summary is made",
    "route": "deprecated there, too; `models` and `provider` say the same",
    "service_tier": "all requests are served alike",
    "session_id": "sessions stay with the first provider that can answer anyway",
    "tools[].parameters.engine": "what searches and fetches is the operator's choice",
    "tools[].parameters.mode": "a setting of search services that are not used here",
    "tools[].parameters.x_search": "nobody here searches X",
    "trace": "nothing is sent to observers",
    "transforms[]": "prompts are never cut; one that does not fit is refused",
    "verbosity": "the model knows no such setting; ask for it in the prompt",
    "x-deepserve-strict": "strict mode repeats the refusals of the vendor's own API, not of this one",
    "x_search_filter": "nobody here searches X",
}
"""What changes nothing here, and why. Each use is named in `x-deepserve-ignored`."""

OWN_FIELDS = frozenset(
    (
        *("models", "plugins", "prompt", "provider", "transforms", "usage", "verbosity"),
        *("max_tool_calls", "stop_server_tools_when", "web_search_options"),
    )
)
"""What the modules of this package read."""

OPENROUTER = msgspec.structs.replace(
    DEEPSEEK,
    name="openrouter",
    dialect="openrouter",
    efforts=EFFORTS,
    documented_efforts=tuple(reversed(tuple(EFFORTS))),
    refused=REFUSED,
    own_fields=OWN_FIELDS,
)
"""Thinking is on by default, as in the service's catalogue."""

PARAMETERS = (
    *("frequency_penalty", "include_reasoning", "logit_bias", "logprobs", "max_completion_tokens", "max_tokens"),
    *("min_p", "parallel_tool_calls", "presence_penalty", "reasoning", "reasoning_effort", "repetition_penalty"),
    *("response_format", "seed", "stop", "structured_outputs", "temperature", "tool_choice", "tools", "top_k"),
    *("top_logprobs", "top_p"),
)
"""What is honoured, in the words of the service's catalogue."""
