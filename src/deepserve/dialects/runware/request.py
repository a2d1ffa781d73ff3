"""Bodies and frames to tasks, and a `textInference` task to a request of the core."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import datetime
from typing import Final, Literal, Protocol

import msgspec

from deepserve.config import Limits
from deepserve.core.errors import InvalidField, MissingField, UnknownModel
from deepserve.core.messages import Json
from deepserve.core.model import ModelName
from deepserve.core.request import Request, RequestId, Thinking, ToolChoice
from deepserve.core.sampling import Sampling
from deepserve.core.tenant import LOCAL_TENANT, Tenant
from deepserve.dialects.body import JsonBody
from deepserve.dialects.runware import fields
from deepserve.dialects.runware.answer_form import decode_answer_form
from deepserve.dialects.runware.conversation import decode_messages, decode_tool_choice, decode_tools, schema_fields
from deepserve.dialects.runware.errors import TaskRefused
from deepserve.dialects.runware.value import Value

DeliveryMethod = Literal["sync", "async", "stream"]

_UUID_4 = re.compile(r"[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-4[0-9a-fA-F]{3}-[89abAB][0-9a-fA-F]{3}-[0-9a-fA-F]{12}")


class Names(Protocol):
    """What decoding needs of the model catalog."""

    def resolve(self, requested: str) -> ModelName: ...


class Inference(msgspec.Struct, frozen=True, kw_only=True):
    """A decoded task and what only this dialect needs to answer it.

    source      the task as it came
    first_seed  as it is shown: the client's own number, even where the sampler's is another
    """

    task_uuid: str
    request: Request
    model: ModelName
    delivery: DeliveryMethod
    webhook_url: str | None
    include_cost: bool
    include_usage: bool
    first_seed: int
    source: Json

    @property
    def is_later(self) -> bool:
        """Acknowledged at once and answered later."""
        return self.delivery == "async" or self.webhook_url is not None

    def seed_of(self, result: int) -> int:
        return self.first_seed if result == 0 else (self.first_seed + result) % fields.SEED_MODULUS


def read_tasks(raw: bytes, limits: Limits) -> list[Json]:
    """The tasks of a body or frame. Raises MalformedBody, and InvalidField for what is no list of objects."""
    value = JsonBody(raw, limits).value
    tasks = [value] if isinstance(value, dict) else value
    if not isinstance(tasks, list) or not all(isinstance(task, dict) for task in tasks):
        raise InvalidField("The body must be an array of task objects.", field="tasks")
    if not tasks:
        raise MissingField("The array holds no task.", field="tasks")
    if len(tasks) > fields.MAX_TASKS:
        raise InvalidField(f"The array holds {len(tasks)} tasks; {fields.MAX_TASKS} are the most.", field="tasks")
    return tasks


def task_type_of(task: Mapping[str, Json]) -> str | None:
    """As far as it can be told; for the errors of tasks that cannot be read."""
    found = task.get("taskType")
    return found[:100] if isinstance(found, str) else None


def task_uuid_of(task: Mapping[str, Json]) -> str | None:
    found = task.get("taskUUID")
    return found[:100] if isinstance(found, str) else None


def read_task_type(task: Mapping[str, Json]) -> str:
    if task.get("taskType") is None:
        raise TaskRefused(
            "missingTaskType",
            "`taskType` is required: this base address takes tasks. Chat requests belong below it: "
            "POST to /chat/completions.",
            parameter="taskType",
        )
    return Value(task).required("taskType").string()


def read_task_uuid(task: Mapping[str, Json]) -> str:
    node = Value(task).required("taskUUID")
    if not _UUID_4.fullmatch(node.string()):
        raise node.refuse("must be a UUID of version 4")
    return node.string()


def decode_inference(
    task: Mapping[str, Json],
    *,
    names: Names,
    limits: Limits,
    request_id: RequestId,
    arrived_at: datetime,
    drawn_seed: int,
    tenant: Tenant = LOCAL_TENANT,
    is_strict: bool = False,
) -> Inference:
    """drawn_seed: for a task that brings none. Raises TaskRefused."""
    task_uuid = read_task_uuid(task)
    root, settings = _arranged(task)
    model = _model(root.required("model"), names)
    delivery = _delivery(root)
    num_results = _integer(root, "numberResults", 1, fields.MAX_RESULTS) or 1
    if delivery == "stream" and num_results > 1:
        raise TaskRefused(
            "invalidNumberResults", "`numberResults` must be 1 with `deliveryMethod` stream.", parameter="numberResults"
        )
    tools_node, choice_node = root.optional("tools"), root.optional("toolChoice")
    tools, server_tools = ((), ()) if tools_node is None else decode_tools(tools_node, limits)
    if server_tools and num_results > 1:
        raise TaskRefused(
            "invalidNumberResults",
            "`numberResults` must be 1 with tools that the server runs.",
            parameter="numberResults",
        )
    system_prompt = settings.optional("systemPrompt")
    messages = decode_messages(
        root.required("messages"),
        None if system_prompt is None else system_prompt.string(low=1, high=fields.MAX_SYSTEM_CHARACTERS),
        limits,
    )
    seed = _integer(root, "seed", 0, fields.HIGHEST_SEED)
    first_seed = drawn_seed if seed is None else seed
    webhook = root.optional("webhookURL")
    top_p = _number(settings, "topP")
    request = Request(
        id=request_id,
        model=model.id,
        requested_model=model.requested,
        dialect="runware",
        arrived_at=arrived_at,
        messages=messages,
        tools=tools,
        server_tools=server_tools,
        tool_choice=ToolChoice() if choice_node is None else decode_tool_choice(choice_node, (*tools, *server_tools)),
        response_format=decode_answer_form(root, model, limits, is_strict=is_strict),
        thinking=_thinking(settings, model, is_strict=is_strict),
        sampling=Sampling(
            temperature=_number(settings, "temperature"),
            # Zero is allowed here, and means the same as a share that no token can stay below.
            top_p=None if top_p is None else max(top_p, 1e-9),
            frequency_penalty=_number(settings, "frequencyPenalty"),
            presence_penalty=_number(settings, "presencePenalty"),
            seed=first_seed % fields.SEED_MODULUS,
        ),
        max_output_tokens=_integer(settings, "maxTokens", 1, fields.MAX_OUTPUT_TOKENS),
        default_output_tokens=fields.DEFAULT_OUTPUT_TOKENS,
        stop=_stops(settings),
        num_results=num_results,
        tenant=tenant,
        schema_fields=schema_fields(tools_node),
        is_whole=delivery != "stream",
        is_strict=is_strict,
    )
    return Inference(
        task_uuid=task_uuid,
        request=request,
        model=model,
        delivery=delivery,
        webhook_url=None if webhook is None else webhook.string(low=1, high=fields.MAX_URL_CHARACTERS),
        include_cost=_flag(root, "includeCost"),
        include_usage=_flag(root, "includeUsage"),
        first_seed=first_seed,
        source=dict(task),
    )


_PLACED: Final = fields.TASK_FIELDS | {"routing", "inputs", *fields.MOVED_INTO_SETTINGS}


def _arranged(task: Mapping[str, Json]) -> tuple[Value, Value]:
    """The task and its settings, with members that clients place elsewhere where they belong."""
    root = Value(task)
    for name, why in fields.REFUSED.items():
        if name in task and task[name] not in (None, {}, []):
            raise root.unsupported(name, why)
    root.check_keys(_PLACED)
    given = root.optional("settings")
    settings = dict(given.mapping()) if given is not None else {}
    settings = {name: value for name, value in settings.items() if value is not None}
    for name in fields.MOVED_INTO_SETTINGS:
        if task.get(name) is not None:
            settings.setdefault(name, task[name])
    outer = {name: value for name, value in task.items() if value is not None}
    for name in fields.MOVED_OUT_OF_SETTINGS:
        if name in settings:
            moved = settings.pop(name)
            outer.setdefault(name, moved)
    arranged = Value(settings, "settings")
    arranged.check_keys(fields.SETTINGS_FIELDS)
    provider = root.optional("providerSettings")
    if provider is not None and (others := [name for name in provider.mapping() if name != "deepseek"]):
        raise TaskRefused(
            "mismatchProviderSettingsProvider",
            f"`providerSettings.{others[0][:64]}` does not belong to this model's provider, deepseek.",
            parameter=f"providerSettings.{others[0][:64]}",
        )
    return Value(outer), arranged


def _model(node: Value, names: Names) -> ModelName:
    try:
        return names.resolve(node.string(low=1))
    except UnknownModel as error:
        raise TaskRefused("modelNotFound", error.message, parameter="model", status=404) from error


_DELIVERIES: Final[Mapping[str, DeliveryMethod]] = {"sync": "sync", "async": "async", "stream": "stream"}


def _delivery(root: Value) -> DeliveryMethod:
    node = root.optional("deliveryMethod")
    return "sync" if node is None else _DELIVERIES[node.choice(_DELIVERIES)]


def _thinking(settings: Value, model: ModelName, *, is_strict: bool) -> Thinking:
    """Off unless asked for, unlike in the vendor's own dialects; an alias that fixes it on or off decides first."""
    node = settings.optional("thinkingLevel")
    if node is None:
        return Thinking(enabled=model.thinking is True)
    if not is_strict and isinstance(node.value, str) and node.value in fields.TOLERATED_LEVELS:
        level = fields.TOLERATED_LEVELS[node.value]
    else:
        level = node.choice(fields.LEVELS)
    return Thinking(enabled=False) if level == "off" else Thinking(effort="max" if level == "max" else "high")


def _stops(settings: Value) -> tuple[str, ...]:
    node = settings.optional("stopSequences")
    if node is None:
        return ()
    if len(node.sequence()) > fields.MAX_STOPS:
        raise node.refuse(f"must hold at most {fields.MAX_STOPS} strings")
    return tuple(item.string(low=1, high=fields.MAX_STOP_CHARACTERS) for item in node.items())


def _number(settings: Value, key: str) -> float | None:
    found = settings.optional(key)
    return None if found is None else found.number(*fields.NUMBERS[key])


def _integer(node: Value, key: str, low: int, high: int) -> int | None:
    found = node.optional(key)
    return None if found is None else found.integer(low, high)


def _flag(node: Value, key: str) -> bool:
    found = node.optional(key)
    return found is not None and found.boolean()
