"""GET /openapi.json: every address of this server, and the bodies it takes, for tools that read OpenAPI 3.1.

Made from the routes themselves, so no address can be forgotten; bodies are the dialects' own schemas.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from http import HTTPStatus

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from deepserve import __version__
from deepserve.core.errors import DeepserveError, error_classes
from deepserve.core.messages import Json
from deepserve.dialects import raw_web
from deepserve.dialects.chat import schema as chat
from deepserve.dialects.chat.flavour import DEEPSEEK
from deepserve.dialects.chat.openrouter.flavour import IGNORED as OPENROUTER_IGNORED
from deepserve.dialects.chat.openrouter.flavour import OPENROUTER
from deepserve.dialects.completions import schema as completions
from deepserve.dialects.messages import schema as messages
from deepserve.dialects.responses import schema as responses
from deepserve.dialects.runware import schema as runware
from deepserve.server.error_shapes import error_codec
from deepserve.server.site import Site

Schema = dict[str, Json]

_PATH_PARAMETER = re.compile(r"\{(\w+)(?::\w+)?\}")

_BODIES: tuple[tuple[str, str], ...] = (
    (r"/|/v1/?", "Tasks"),
    (r"/api/v1/chat/completions", "OpenRouterChatRequest"),
    (r".*/chat/completions", "ChatRequest"),
    (r".*/completions", "CompletionRequest"),
    (r".*/messages(/count_tokens)?", "MessagesRequest"),
    (r".*/responses(/input_tokens|/compact)?", "ResponsesRequest"),
    (r".*/tools/search", "SearchRequest"),
    (r".*/tools/fetch", "FetchRequest"),
)
"""Addresses and the name of the body they take, the first that fits; others take what their answers say."""

_STREAMED = frozenset(name for _, name in _BODIES) - {"SearchRequest", "FetchRequest"}
"""Bodies with `stream`."""


class OpenApi:
    """The document of one application, made when it is first asked for."""

    def __init__(self, site: Site, routes: Sequence[BaseRoute]) -> None:
        self._site = site
        self._routes = routes
        site.live.follow(lambda _: self._forget())

    def _forget(self) -> None:
        """It tells of limits, which have changed."""
        self.__dict__.pop("_document", None)

    async def show(self, _: Request) -> Response:
        return Response(self._document, media_type="application/json")

    @cached_property
    def _document(self) -> bytes:
        paths: dict[str, Schema] = {}
        for route in self._routes:
            if isinstance(route, Route):
                operations = paths.setdefault(_PATH_PARAMETER.sub(r"{\1}", route.path), {})
                for method in sorted((route.methods or {"GET"}) - {"HEAD"}):
                    operations.setdefault(method.lower(), _operation(method, route.path))
        return msgspec.json.encode(
            {
                "openapi": "3.1.0",
                "info": {
                    "title": "deepserve",
                    "version": __version__,
                    "description": "DeepSeek V4 in the dialects it is sold through, on your own machine.",
                },
                "servers": [{"url": "/"}],
                "security": [{}, {"bearer": []}],
                "paths": paths,
                "components": {
                    "schemas": {name: build() for name, build in self._bodies().items()},
                    "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
                },
            }
        )

    def _bodies(self) -> dict[str, Callable[[], Schema]]:
        limits = self._site.settings.limits
        names = [row.id for row in self._site.names.models] + [row.name for row in self._site.names.aliases]
        presets = [row.id for row in self._site.names.presets.rows]
        slugs = [listing.name for listing in self._site.listings.openrouter]
        return {
            "ChatRequest": lambda: chat.request_schema(DEEPSEEK, limits, [*names, *presets]),
            "OpenRouterChatRequest": lambda: chat.request_schema(
                OPENROUTER, limits, [*slugs, *names], ignored=OPENROUTER_IGNORED
            ),
            "CompletionRequest": lambda: completions.request_schema(limits, [*names, *presets]),
            "MessagesRequest": lambda: messages.request_schema(limits, [*names, *presets]),
            "ResponsesRequest": lambda: responses.request_schema(limits, [*names, *presets]),
            "SearchRequest": raw_web.search_schema,
            "FetchRequest": raw_web.fetch_schema,
            "Tasks": lambda: runware.request_schema(limits, names),
        }


def _operation(method: str, path: str) -> Schema:
    operation: Schema = {
        "operationId": f"{method.lower()} {path}",
        "responses": _answers(path),
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
            for name in _PATH_PARAMETER.findall(path)
        ],
    }
    if method == "POST":
        body = next((name for pattern, name in _BODIES if re.fullmatch(pattern, path)), None)
        schema = {} if body is None else {"$ref": f"#/components/schemas/{body}"}
        operation["requestBody"] = {"required": body is not None, "content": {"application/json": {"schema": schema}}}
        if body in _STREAMED:
            operation["responses"]["200"]["content"]["text/event-stream"] = {}
    return operation


def _answers(path: str) -> Schema:
    """Every status the address can answer with, errors in the shape of its dialect."""
    kind = "text/plain" if path == "/metrics" else "application/json"
    answers: Schema = {"200": {"description": "The answer.", "content": {kind: {}}}}
    for status in sorted(set(_error_statuses(path))):
        answers[str(status)] = {"description": _phrase(status), "content": {"application/json": {}}}
    return answers


def _error_statuses(path: str) -> Iterable[int]:
    codec = error_codec(path)
    for cls in error_classes():
        error = cls.__new__(cls)  # some classes want more than a message, and here only the class matters
        DeepserveError.__init__(error, "")
        yield codec.status(error)


def _phrase(status: int) -> str:
    return HTTPStatus(status).phrase if status in HTTPStatus._value2member_map_ else "Client Closed Request"
