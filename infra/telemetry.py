"""What a process says of itself: log lines by structlog, and every metric there is.

The only file that imports prometheus_client, and the only place where a metric has its name.
Writes log lines to standard error, JSON unless that is a terminal, and metrics as Prometheus text.
Times are seconds, as Prometheus has them. A name or label that is not below is a bug and raises.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping

import structlog
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
    start_http_server,
)

METRICS_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
FAST_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Bounds for what should take milliseconds and must not take seconds."""

REGISTRY = CollectorRegistry()
"""Ours alone, so that no library adds names to it."""

_COUNTERS = {
    "foldline_log_records_total": ("Records that counted in the shard log", ("shard",)),
    "foldline_ownerships_total": ("Ownerships of a shard, begun and ended", ("shard", "outcome")),
    "foldline_snapshots_total": ("Snapshots saved, or not", ("shard", "outcome")),
    "foldline_inputs_parked_total": (
        "Inputs that could not be read, by the input's name; they go to the dead letters",
        ("input", "code"),
    ),
    "foldline_records_passed_over_total": (
        "Records that cannot be read, of topics whose readers go on without them",
        ("topic",),
    ),
    "foldline_dispatches_total": ("Dispatch records sent to nodes", ("shard",)),
    "foldline_view_records_total": ("Log records that a view has stored", ("view", "shard")),
    "foldline_relayed_total": ("Records published on public topics", ("topic",)),
    "foldline_http_requests_total": ("Requests answered", ("method", "route", "status")),
    "foldline_submissions_total": ("Submissions accepted or turned down at the door", ("outcome",)),
    "foldline_edge_letters_total": ("Dead letters that triage has seen", ("failure",)),
    "foldline_edge_redrives_total": ("What triage decided of dead letters", ("rule", "outcome")),
}
_GAUGES = {
    "foldline_shard_epoch": ("Epoch that this process owns the shard in, 0 if not", ("shard",)),
    "foldline_input_lag_records": ("Records that wait to be consumed", ("shard", "input")),
    "foldline_tasks_running": ("Tasks that run on this node", ()),
    "foldline_view_offset": ("Offset of the log that a view reflects", ("view", "shard")),
    "foldline_view_lag_records": ("Records of the log that a view has not taken in", ("view",)),
    "foldline_view_lag_seconds": ("Age of what a view that is behind shows, else 0", ("view",)),
    "foldline_dead_letters_open": ("Dead letters that nobody has dealt with", ()),
    "foldline_dead_letters_oldest_timestamp_seconds": (
        "When the oldest of them was laid aside",
        (),
    ),
    "foldline_dead_letters_open_by_fingerprint": (
        "The same by what they look like, the most frequent ones",
        ("fingerprint",),
    ),
    "foldline_dead_letters_oldest_by_fingerprint_timestamp_seconds": (
        "When the oldest of each was laid aside",
        ("fingerprint",),
    ),
    "foldline_edge_circuits_open": (
        "Is 1 for a fingerprint of which triage redrives nothing, after a burst",
        ("fingerprint",),
    ),
    "foldline_edge_window_letters": (
        "Dead letters of this window by what they look like, the most frequent ones",
        ("fingerprint",),
    ),
    "foldline_edge_pending_redrives": ("Redrives that wait for their moment", ()),
}
_HISTOGRAMS = {
    "foldline_decide_seconds": ("Deciding one batch", ("shard",)),
    "foldline_append_seconds": ("From sending a decision to knowing that it counts", ("shard",)),
    "foldline_view_store_seconds": ("Storing one batch in a view", ("view", "shard")),
    "foldline_http_seconds": ("Answering a request", ("method", "route")),
    "foldline_kafka_ack_seconds": ("From sending a command to its acknowledgement", ()),
}

disable_created_metrics()  # type: ignore[no-untyped-call]  # it has no annotations
_counters = {
    name: Counter(name, text, labels, registry=REGISTRY)
    for name, (text, labels) in _COUNTERS.items()
}
_gauges = {
    name: Gauge(name, text, labels, registry=REGISTRY) for name, (text, labels) in _GAUGES.items()
}
_histograms = {
    name: Histogram(name, text, labels, registry=REGISTRY, buckets=FAST_S)
    for name, (text, labels) in _HISTOGRAMS.items()
}
ProcessCollector(registry=REGISTRY)
PlatformCollector(registry=REGISTRY)


def count(name: str, amount: float = 1, **labels: str | int) -> None:
    """Add to a counter."""
    metric = _counters[name]
    (metric.labels(**labels) if labels else metric).inc(amount)


def gauge(name: str, value: float, **labels: str | int) -> None:
    """Set a gauge."""
    metric = _gauges[name]
    (metric.labels(**labels) if labels else metric).set(value)


def gauges(name: str, values: Mapping[str, float]) -> None:
    """Set a gauge of one label for these values of it; it has no others from now on."""
    metric = _gauges[name]
    metric.clear()
    for label, value in values.items():
        metric.labels(label).set(value)


def observe(name: str, seconds: float, **labels: str | int) -> None:
    """Add one duration to a histogram."""
    metric = _histograms[name]
    (metric.labels(**labels) if labels else metric).observe(seconds)


def metrics_text() -> str:
    """Every metric of this process, as Prometheus reads it (`METRICS_CONTENT_TYPE`)."""
    return generate_latest(REGISTRY).decode()


def serve_metrics(port: int, host: str = "127.0.0.1") -> Callable[[], None]:
    """Answer `/metrics` on a port of its own, for processes without HTTP; returns how to stop it.

    Raises `OSError` if the port is taken.
    """
    server, thread = start_http_server(port, addr=host, registry=REGISTRY)

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


def configure_logging(process: str, level: str = "info", *, as_json: bool | None = None) -> None:
    """Send every log line to standard error, marked with the process's name.

    JSON unless standard error is a terminal, or as told. Lines of other libraries come along from
    `warning` on.
    """
    if as_json is None:
        as_json = not sys.stderr.isatty()
    form = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()

    def name_process(
        _logger: object, _method: str, line: structlog.typing.EventDict
    ) -> structlog.typing.EventDict:
        line["process"] = process
        return line

    shared: list[structlog.typing.Processor] = [
        name_process,
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    last: list[structlog.typing.Processor] = [form]
    if as_json:
        last.insert(0, structlog.processors.format_exc_info)
    number = logging.getLevelNamesMapping()[level.upper()]
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
