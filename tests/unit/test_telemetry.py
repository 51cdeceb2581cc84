"""Log lines and metrics as operators find them."""

from __future__ import annotations

import json
import logging
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
import structlog

from infra import telemetry
from infra.local.ports import LOOPBACK, free_ports


@pytest.fixture(autouse=True)
def _default_logging() -> Iterator[None]:
    root = logging.getLogger()
    before = (list(root.handlers), root.level)
    yield
    structlog.reset_defaults()
    root.handlers[:], root.level = before


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, str]]:
    captured = capsys.readouterr()
    assert captured.out == "", "log lines must not mix with what a command prints"
    return [json.loads(line) for line in captured.err.splitlines()]


def test_lines_are_json_with_their_process_from_every_thread_and_library(
    capsys: pytest.CaptureFixture[str],
) -> None:
    telemetry.configure_logging("engine", "info")
    log = structlog.get_logger("foldline.engine")
    log.info("owning", shard=3)
    log.debug("not shown")
    thread = threading.Thread(target=lambda: log.warning("from a thread"))
    thread.start()
    thread.join()
    logging.getLogger("uvicorn").error("port %d is taken", 8080)
    try:
        json.loads("what went wrong")
    except ValueError:
        log.exception("stopped")
    owning, threaded, library, stopped = lines(capsys)
    assert owning["event"] == "owning"
    assert owning["shard"] == 3
    assert {line["process"] for line in (owning, threaded, library, stopped)} == {"engine"}
    assert (library["event"], library["level"]) == ("port 8080 is taken", "error")
    assert "JSONDecodeError" in stopped["exception"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT[\d:.]+Z", owning["timestamp"])


def test_a_terminal_gets_lines_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    telemetry.configure_logging("engine", "debug", as_json=False)
    structlog.get_logger().debug("owning", shard=3)
    shown = capsys.readouterr().err
    assert "owning" in shown
    assert not shown.startswith("{")


def test_metrics_are_told_as_text_and_over_http() -> None:
    telemetry.count("foldline_relayed_total", 5, topic="some.topic")
    telemetry.gauge("foldline_view_offset", 4, view="audit", shard=901)
    telemetry.observe("foldline_kafka_ack_seconds", 0.003)
    (port,) = free_ports(1)
    stop = telemetry.serve_metrics(port)
    try:
        with urlopen(f"http://{LOOPBACK}:{port}/metrics", timeout=10) as answer:
            served = answer.read().decode()
    finally:
        stop()
    for text in (served, telemetry.metrics_text()):
        assert 'foldline_relayed_total{topic="some.topic"} 5.0' in text
        assert 'foldline_view_offset{shard="901",view="audit"} 4.0' in text
        assert 'foldline_kafka_ack_seconds_bucket{le="0.005"} 1.0' in text
        assert "process_cpu_seconds_total" in text
    with pytest.raises(OSError, match="refused"):
        urlopen(f"http://{LOOPBACK}:{port}/metrics", timeout=10)


def test_a_metric_or_label_that_nobody_declared_is_a_bug() -> None:
    with pytest.raises(KeyError):
        telemetry.count("foldline_made_up_total")
    with pytest.raises(ValueError, match="label"):
        telemetry.count("foldline_relayed_total", shard=1)


def test_metrics_are_named_by_one_rule() -> None:
    for names, ending in (
        (telemetry._COUNTERS, "_total"),
        (telemetry._HISTOGRAMS, "_seconds"),
        (telemetry._GAUGES, ""),
    ):
        for name, (text, labels) in names.items():
            assert name.startswith("foldline_")
            assert name.endswith(ending)
            assert text[0].isupper()
            assert len(labels) <= 3


def test_no_metric_is_declared_that_nothing_sets() -> None:
    root = Path(telemetry.__file__).parent.parent
    rooms = ("foldline", "infra", "ingest", "projections", "stream_processors", "workers")
    files = [path for room in rooms for path in (root / room).rglob("*.py")]
    code = "".join(path.read_text() for path in files if path != Path(telemetry.__file__))
    declared = [*telemetry._COUNTERS, *telemetry._GAUGES, *telemetry._HISTOGRAMS]
    assert [name for name in declared if f'"{name}"' not in code] == []
