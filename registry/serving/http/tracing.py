"""The span of a request: FastAPI makes it, where the program has a tracer provider of OpenTelemetry."""

from __future__ import annotations

from registry.serving.http.request_ids import RequestNames

try:
    from opentelemetry import trace
except ModuleNotFoundError:  # it is no dependency of this package
    trace = None  # type: ignore[assignment]


def note_request(names: RequestNames) -> None:
    """Write the request's id into the span that is being recorded, if there is one."""
    if trace is not None and (span := trace.get_current_span()).is_recording():
        span.set_attribute("ulora.request_id", names.request_id)
