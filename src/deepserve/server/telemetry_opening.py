"""Whether traces are wanted, and where they go. What records them is imported only then."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from deepserve.config import Settings
from deepserve.core.errors import ConfigurationError

if TYPE_CHECKING:
    from deepserve.server.telemetry import Telemetry

_log = logging.getLogger(__name__)

ENDPOINTS: Final = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
"""Variables by which OpenTelemetry's own programs are told where a collector is."""

HOW_TO_GET_IT: Final = 'Install it: pip install "deepserve[otel]".'


def open_telemetry(settings: Settings, environment: Mapping[str, str]) -> Telemetry | None:
    """None where nobody asks for traces. Raises ConfigurationError for a setting that cannot be followed."""
    wanted = settings.telemetry.traces_url
    by_environment = next((environment[name] for name in ENDPOINTS if environment.get(name)), None)
    if environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true" or (
        wanted is None and (by_environment is None or environment.get("OTEL_TRACES_EXPORTER", "otlp") == "none")
    ):
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        from deepserve.server.telemetry import Telemetry
    except ImportError as error:
        if wanted is None:  # said to every program of the machine, and not to us alone
            _log.warning(
                "Traces are wanted by %s, and OpenTelemetry is not here. %s", " or ".join(ENDPOINTS), HOW_TO_GET_IT
            )
            return None
        raise ConfigurationError(
            f"Traces are to go to {wanted}, and OpenTelemetry is not here. {HOW_TO_GET_IT}"
        ) from error
    exporter = OTLPSpanExporter() if wanted is None else OTLPSpanExporter(endpoint=wanted)
    is_named = environment.get("OTEL_SERVICE_NAME") or SERVICE_NAME in environment.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({} if is_named else {SERVICE_NAME: "deepserve"})
    return Telemetry(
        (BatchSpanProcessor(exporter),), includes_content=settings.telemetry.includes_content, resource=resource
    )
