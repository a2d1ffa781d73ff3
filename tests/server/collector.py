"""A collector of traces on loopback, as OpenTelemetry's own takes them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import msgspec
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from typing_extensions import override


class Span(msgspec.Struct, frozen=True, kw_only=True):
    """What a test looks at of a span. Ids are hexadecimal."""

    name: str
    kind: int
    trace_id: str
    span_id: str
    parent_id: str
    status: int
    began_ns: int
    ended_ns: int
    service: str
    attributes: dict[str, Any]  # Any: what an attribute can be


class Collector:
    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[Span] = []

    def one(self, name: str) -> Span:
        [found] = [span for span in self.spans if span.name == name]
        return found

    def of_kind(self, kind: int) -> list[Span]:
        return sorted((span for span in self.spans if span.kind == kind), key=lambda span: span.began_ns)

    def take(self, body: bytes) -> None:
        sent = ExportTraceServiceRequest.FromString(body)
        for resource in sent.resource_spans:
            named = {one.key: one.value.string_value for one in resource.resource.attributes}
            for span in (span for scope in resource.scope_spans for span in scope.spans):
                self.spans.append(
                    Span(
                        name=span.name,
                        kind=span.kind,
                        trace_id=span.trace_id.hex(),
                        span_id=span.span_id.hex(),
                        parent_id=span.parent_span_id.hex(),
                        status=span.status.code,
                        began_ns=span.start_time_unix_nano,
                        ended_ns=span.end_time_unix_nano,
                        service=named.get("service.name", ""),
                        attributes={one.key: _value(one.value) for one in span.attributes},
                    )
                )


def _value(value: Any) -> Any:  # Any: protobuf's, and a plain one
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)


@contextlib.contextmanager
def collecting() -> Iterator[Collector]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.headers["Content-Type"] == "application/x-protobuf"
            collector.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        @override
        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    collector = Collector(f"http://127.0.0.1:{server.server_address[1]}/v1/traces")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield collector
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
