"""What tasks write becomes bounded lines, and lines become records that show gaps and repeats."""

from __future__ import annotations

from tests.agent_world import SECOND_NS
from workers.executor import TaskKey, Wrote
from workers.log_shipper import BUFFER_BYTES, LogShipper
from workers.logs import LineCutter, TaskLog
from workers.messages import Moment
from workers.options import LogLimits
from workers.tail import TAIL_LINES

KEY = TaskKey(7, 2, 1)
NOW = Moment(SECOND_NS, 5)


def test_lines_are_cut_wherever_the_reads_fall() -> None:
    cutter = LineCutter(100)
    assert cutter.feed(b"one\ntw") == ["one"]
    assert cutter.feed(b"o\n\nthree") == ["two", ""]
    assert cutter.close() == ["three"]
    assert cutter.close() == []


def test_a_long_line_is_truncated_and_says_by_how_much() -> None:
    cutter = LineCutter(10)
    assert cutter.feed(b"x" * 8) == []
    assert cutter.feed(b"y" * 8) == []
    assert cutter.feed(b"z" * 5 + b"\nok\n") == ["xxxxxxxxyy [truncated: 11 bytes more]", "ok"]


def test_a_progress_bar_leaves_its_last_state() -> None:
    cutter = LineCutter(20)
    for step in range(50):
        assert cutter.feed(f"\rstep {step}".encode()) == []
    assert cutter.feed(b"\r\n") == ["step 49"]


def test_bytes_that_are_no_text_are_replaced_not_lost() -> None:
    assert LineCutter(100).feed(b"a\xffb\n") == ["a\ufffdb"]


def test_lines_beyond_the_rate_are_dropped_and_counted() -> None:
    log = TaskLog(LogLimits(lines_per_s=10, burst_s=1), 0)
    text = b"".join(b"line %d\n" % number for number in range(25))
    assert [(dropped, len(lines)) for dropped, lines in log.feed("stdout", text, 0)] == [(0, 10)]
    later = log.feed("stdout", b"again\n", SECOND_NS)
    assert later == [(15, ["again"])]


def test_bytes_beyond_the_rate_and_the_total_are_dropped() -> None:
    log = TaskLog(LogLimits(bytes_per_s=100, burst_s=1), 0)
    assert log.feed("stdout", b"x" * 60 + b"\n" + b"y" * 60 + b"\n", 0) == [(0, ["x" * 60])]
    log = TaskLog(LogLimits(total_bytes=10), 0)
    log.feed("stdout", b"12345678\n", 0)
    assert log.feed("stdout", b"9\n", 100 * SECOND_NS) == []
    assert log.close("stdout") == [(1, [])]


def test_the_tail_holds_the_last_lines_even_if_they_were_dropped() -> None:
    log = TaskLog(LogLimits(lines_per_s=1, burst_s=1), 0)
    log.feed("stdout", b"".join(b"%d\n" % number for number in range(1000)), 0)
    log.feed("stderr", b"the reason\n", 0)
    assert log.tail().endswith("998\n999\nthe reason")
    assert len(log.tail().splitlines()) == TAIL_LINES


def wrote(*lines: str, dropped: int = 0, stream: str = "stdout") -> Wrote:
    return Wrote(KEY, "job", stream, dropped, list(lines))


def test_a_line_leaves_at_once_and_others_gather_while_it_is_in_flight() -> None:
    shipper = LogShipper("n1")
    shipper.add(wrote("a"))
    [(stream, record)] = shipper.records(NOW)
    assert (record.lines, record.first_line, record.attempt, record.task) == (["a"], 0, 2, 1)
    shipper.add(wrote("b"))
    shipper.add(wrote("c"))
    assert shipper.records(NOW) == []
    shipper.landed(stream, arrived=True, now=NOW)
    [(_, record)] = shipper.records(NOW)
    assert (record.lines, record.first_line) == (["b", "c"], 1)


def test_dropped_lines_show_as_a_gap_of_their_number() -> None:
    shipper = LogShipper("n1")
    shipper.add(wrote("a"))
    shipper.add(wrote("b", dropped=5))
    [(stream, first)] = shipper.records(NOW)
    shipper.landed(stream, arrived=True, now=NOW)
    [(_, second)] = shipper.records(NOW)
    assert (first.lines, first.dropped) == (["a"], 0)
    assert (second.lines, second.first_line, second.dropped) == (["b"], 6, 5)


def test_a_record_of_unknown_fate_is_sent_again_after_a_pause() -> None:
    shipper = LogShipper("n1")
    shipper.add(wrote("a"))
    [(stream, record)] = shipper.records(NOW)
    shipper.landed(stream, arrived=False, now=NOW)
    assert shipper.records(NOW) == []
    assert shipper.next_due_ns() > NOW.boot_ns
    later = Moment(shipper.next_due_ns(), 6)
    assert shipper.records(later) == [(stream, record)]


def test_what_does_not_fit_while_kafka_is_away_is_dropped_and_counted() -> None:
    shipper = LogShipper("n1")
    shipper.add(wrote("first"))
    [(stream, _)] = shipper.records(NOW)
    line = "x" * 1023
    shipper.add(wrote(*[line] * (BUFFER_BYTES // 1024 + 7)))
    shipper.landed(stream, arrived=True, now=NOW)
    lines = dropped = 0
    while shipper.records(Moment(NOW.boot_ns, 0)):
        record = shipper._streams[stream].flying
        assert record is not None
        lines += len(record.lines)
        dropped += record.dropped
        shipper.landed(stream, arrived=True, now=NOW)
    assert lines + dropped == BUFFER_BYTES // 1024 + 7
    assert dropped > 0


def test_an_ended_task_is_forgotten_once_all_its_lines_have_arrived() -> None:
    shipper = LogShipper("n1")
    shipper.add(wrote("a"))
    shipper.end(KEY)
    assert shipper
    [(stream, _)] = shipper.records(NOW)
    shipper.landed(stream, arrived=True, now=NOW)
    assert not shipper
    assert shipper._next_line == {}
    assert not shipper._ended
