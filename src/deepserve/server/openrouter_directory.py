"""What OpenRouter's dialects need to know of this server to route a request."""

from __future__ import annotations

from deepserve.core.provider import Endpoint
from deepserve.dialects.openrouter.routing import Directory
from deepserve.dialects.openrouter.slugs import Slugs
from deepserve.server.openrouter_models import keeps_prompts
from deepserve.server.site import Site


def slugs_of(site: Site) -> Slugs:
    return Slugs(site.listings.openrouter, site.names.without_presets())


def directory_of(site: Site) -> Directory:
    """As it is now and as it changes: models and those who answer may come and go."""

    def endpoints(model: str) -> tuple[Endpoint, ...] | None:
        return next((served.endpoints for served in site.gateway.models() if served.id == model), None)

    return Directory(
        slugs=slugs_of(site),
        default_model=lambda: site.gateway.models()[0].id,
        prices=site.prices,
        keeps_prompts=keeps_prompts(site.settings),
        endpoints=endpoints,
    )
