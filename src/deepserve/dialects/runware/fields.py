"""Which members a `textInference` task may have, and what becomes of each.

A member that is not named here is refused with `unsupportedParameter`, as the vendor does.
"""

from __future__ import annotations

from collections.abc import Mapping

TASK_FIELDS = frozenset(
    (
        "taskType",
        "taskUUID",
        "model",
        "messages",
        "settings",
        "tools",
        "toolChoice",
        "numberResults",
        "seed",
        "deliveryMethod",
        "webhookURL",
        "includeCost",
        "includeUsage",
        "outputFormat",
        "jsonSchema",
        "providerSettings",
    )
)

SETTINGS_FIELDS = frozenset(
    (
        "systemPrompt",
        "temperature",
        "topP",
        "frequencyPenalty",
        "presencePenalty",
        "maxTokens",
        "stopSequences",
        "thinkingLevel",
    )
)

MOVED_INTO_SETTINGS = ("maxTokens", "temperature", "topP", "systemPrompt", "stopSequences")
"""Where `@runware/sdk-js` types them at the top of the task. What `settings` says wins."""

MOVED_OUT_OF_SETTINGS = ("tools", "toolChoice")
"""The older placement, which Runware's ComfyUI nodes still send."""

IGNORED: Mapping[str, str] = {
    "routing": "chooses among the vendor's data centres; there is one place here",
    "providerSettings.deepseek": "holds nothing that the vendor documents for this model",
}
"""Accepted without effect, and why."""

REFUSED: Mapping[str, str] = {
    "inputs": "DeepSeek V4 reads text only",
}
"""Known, but not to be had here, and why."""

NUMBERS: Mapping[str, tuple[float, float]] = {
    "temperature": (0, 2),
    "topP": (0, 1),
    "frequencyPenalty": (0, 2),
    "presencePenalty": (0, 2),
}
"""Settings and their documented ranges; finer steps than the documented 0.01 are taken too."""

MAX_OUTPUT_TOKENS = 100_000
DEFAULT_OUTPUT_TOKENS = 32_768
MAX_RESULTS = 4
MAX_SYSTEM_CHARACTERS = 900_000
MAX_STOPS = 5
MAX_STOP_CHARACTERS = 50
MAX_TOOL_NAME_CHARACTERS = 64
HIGHEST_SEED = 9_223_372_036_854_776_000
"""As documented: two to the power of 63, rounded by a program that counts in doubles."""
SEED_MODULUS = 1 << 63

MAX_URL_CHARACTERS = 2048
MAX_TASKS = 100

LEVELS: Mapping[str, str] = {"off": "off", "high": "high", "max": "max"}
TOLERATED_LEVELS: Mapping[str, str] = {
    "none": "off",
    "minimal": "high",
    "low": "high",
    "medium": "high",
    "adaptive": "high",
    "xhigh": "max",
}
"""What clients send for other models, and what it means for this one; strict mode does not know them."""
