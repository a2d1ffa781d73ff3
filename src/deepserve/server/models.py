"""GET /models: what may be asked for, and what really stands behind it."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from deepserve.core.errors import RouteNotFound, UnknownModel
from deepserve.core.provider import ServedModel
from deepserve.server.site import Site
from deepserve.server.visit import visit_of


class Models:
    """The list and its items: the vendor's fields, plus `created`, `served_by` and the true limits.

    Strict mode leaves out `created`, and the names that leave the choice of the model open: the vendor has neither.
    """

    def __init__(self, site: Site) -> None:
        self._site = site

    async def list(self, request: Request) -> Response:
        is_strict = visit_of(request.scope).is_strict
        presets = self._site.names.presets
        served = self._site.gateway.models(visit_of(request.scope).tenant)
        models = [model for model in served if not is_strict or presets.find(model.id) is None]
        data = [self._item(model, is_strict=is_strict) for model in models]
        return _json({"object": "list", "data": data})

    async def retrieve(self, request: Request) -> Response:
        """Aliases are found too, though the list does not have them."""
        wanted = request.path_params["model"]
        try:
            canonical = self._site.names.resolve(wanted).id
        except UnknownModel as error:
            raise RouteNotFound(error.message, field="model") from error
        for model in self._site.gateway.models(visit_of(request.scope).tenant):
            if model.id == canonical:
                return _json(self._item(model, is_strict=visit_of(request.scope).is_strict))
        raise RouteNotFound(f"This server does not serve {canonical}.", field="model")

    def _item(self, model: ServedModel, *, is_strict: bool) -> dict[str, Any]:  # Any: a JSON object on its way out
        created = {row.id: int(row.released_at.timestamp()) for row in self._site.names.models}
        item: dict[str, Any] = {"id": model.id, "object": "model"}
        if not is_strict:
            item["created"] = created.get(model.id, 0)
        item |= {
            "owned_by": "deepseek",
            "name": model.display_name,
            "context_window": model.context_tokens,
            "max_output_tokens": model.max_output_tokens,
            "input_modalities": model.input_modalities,
            "output_modalities": model.output_modalities,
            "effort": {"supported_levels": model.efforts, "default_level": model.default_effort},
            "api_capabilities": {},
            "served_by": model.served_by,
        }
        if model.note:
            item["note"] = model.note
        return item


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")
