"""Attempts: barriers, timeouts, retries and the confirmed end, as given, when, then."""

from __future__ import annotations

from schemas.events import (
    AttemptsEnding,
    GangsReleased,
    JobsRequeued,
    JobsStarted,
    NodesLost,
    ReportsRefused,
    RetriesScheduled,
)
from schemas.terms import FailureClass, JobState, TaskState
from stream_processors.domain.effects import resend
from stream_processors.domain.retries import backoff_us
from tests.cluster import SECOND, Shard, cancel, gang, heartbeat, node, submission


def running(key: str = "a", **terms: int) -> Shard:
    shard = Shard()
    shard.report(node())
    shard.command(submission(key, **terms))
    shard.says(key, TaskState.STARTED)
    return shard


def test_a_job_runs_when_its_task_started_and_succeeds_when_it_ended_well() -> None:
    shard = running()
    assert shard.states("a") == [JobState.RUNNING]
    shard.says("a", TaskState.ENDED)
    assert shard.states("a") == [JobState.SUCCEEDED]
    assert shard.state.nodes[1].cpu_free == 8000


def test_a_task_that_started_and_ended_within_one_batch_has_run() -> None:
    shard = Shard()
    shard.report(node())
    shard.command(submission("a"))
    events = shard.report(shard.row("a", TaskState.STARTED), shard.row("a", TaskState.ENDED))
    assert any(isinstance(event, JobsStarted) for event in events)
    assert shard.states("a") == [JobState.SUCCEEDED]


def test_a_gang_starts_only_when_every_member_is_ready() -> None:
    shard = Shard()
    shard.report(node())
    shard.command(gang("g", 2))
    shard.says("g", TaskState.READY, 1)
    assert not any(isinstance(event, GangsReleased) for event in shard.events)
    events = shard.says("g", TaskState.READY, 0)
    assert events[-1] == GangsReleased([1], [1], ["127.0.0.1:20000"])
    assert shard.mail[0].releases.tasks == [0, 1]
    shard.says("g", TaskState.STARTED, 0)
    assert shard.states("g") == [JobState.SCHEDULED]
    shard.says("g", TaskState.STARTED, 1)
    assert shard.states("g") == [JobState.RUNNING]


def test_a_gang_is_placed_whole_or_not_at_all() -> None:
    shard = Shard()
    shard.report(node(cpu_milli=3000))
    shard.command(gang("g", 4), submission("a"))
    assert shard.states("g", "a") == [JobState.QUEUED, JobState.SCHEDULED]
    shard.report(node("n2", cpu_milli=2000))
    assert shard.states("g") == [JobState.SCHEDULED]
    assert len(shard.job("g").tasks) == 4


def test_one_members_failure_ends_the_attempt_and_the_whole_gang_is_retried() -> None:
    shard = Shard()
    shard.report(node())
    shard.command(gang("g", 3, backoff_s=1))
    shard.says("g", TaskState.ENDED, 1, FailureClass.USER_ERROR)
    assert shard.mail[0].stops.tasks == [0, 2]
    shard.says("g", TaskState.ENDED, 0, FailureClass.CANCELLED)
    assert shard.states("g") == [JobState.SCHEDULED]
    shard.says("g", TaskState.ENDED, 2, FailureClass.CANCELLED)
    assert shard.states("g") == [JobState.RETRYING]
    shard.wait(1)
    assert shard.job("g").attempt == 2
    assert len(shard.job("g").tasks) == 3


def test_a_gang_that_is_not_ready_in_time_is_stopped_and_retried() -> None:
    shard = Shard()
    shard.report(node())
    shard.command(gang("g", 2, start_timeout_s=30))
    shard.says("g", TaskState.READY, 0)
    ending = shard.wait(30)[0]
    assert isinstance(ending, AttemptsEnding)
    assert ending.failures == [FailureClass.START_TIMEOUT]


def test_an_attempt_out_of_time_is_stopped_and_counts_as_timeout() -> None:
    shard = running(timeout_s=10, max_retries=0)
    shard.wait(9)
    assert not shard.job("a").is_ending
    shard.wait(1)
    assert shard.mail[0].stops.reasons == ["timeout"]
    shard.says("a", TaskState.ENDED, failure=FailureClass.CANCELLED)
    assert shard.states("a") == [JobState.DEAD_LETTER]
    assert shard.job("a").failure is FailureClass.TIMEOUT


def test_retries_wait_longer_each_time_and_end_in_the_dead_letters() -> None:
    shard = Shard()
    shard.report(node())
    shard.command(submission("a", max_retries=2, backoff_s=10, backoff_multiplier_milli=3000))
    delays = []
    for _ in range(2):
        shard.run("a", FailureClass.USER_ERROR)
        delays.append(shard.job("a").due_at - shard.now)
        shard.wait(delays[-1] / SECOND)
    assert 5 * SECOND <= delays[0] <= 10 * SECOND
    assert 15 * SECOND <= delays[1] <= 30 * SECOND
    shard.run("a", FailureClass.USER_ERROR)
    assert shard.states("a") == [JobState.DEAD_LETTER]
    assert shard.job("a").retries_used == 2


def test_backoff_never_exceeds_its_cap_and_depends_on_the_job_alone() -> None:
    terms = submission("a", backoff_s=1, backoff_multiplier_milli=2000, backoff_max_s=60).terms
    for used in range(1, 100):
        delay = backoff_us(terms, b"\1" * 16, used, used)
        assert delay == backoff_us(terms, b"\1" * 16, used, used)
        assert SECOND // 2 <= delay <= 60 * SECOND
    assert backoff_us(terms, b"\1" * 16, 9, 9) != backoff_us(terms, b"\2" * 16, 9, 9)


def test_a_missing_command_is_not_retried() -> None:
    shard = running()
    shard.says("a", TaskState.ENDED, failure=FailureClass.IMAGE_ERROR)
    assert shard.states("a") == [JobState.FAILED]


def test_a_lost_node_costs_no_retry_and_its_late_success_is_refused() -> None:
    shard = running(max_retries=0)
    late = shard.row("a", TaskState.ENDED)
    lost = shard.lose("n1")
    assert [type(event) for event in lost] == [NodesLost, RetriesScheduled, JobsRequeued]
    assert (shard.states("a"), shard.job("a").retries_used) == ([JobState.QUEUED], 0)
    refused = shard.report(late)[0]
    assert isinstance(refused, ReportsRefused)
    assert refused.codes == ["old_incarnation"]
    assert shard.mail[0].register_again


def test_a_retried_job_keeps_its_place_in_the_queue() -> None:
    shard = running(backoff_s=1, cpu_milli=8000)
    shard.command(submission("b", cpu_milli=8000))
    shard.says("a", TaskState.ENDED, failure=FailureClass.USER_ERROR)
    shard.wait(1)
    assert shard.states("a", "b") == [JobState.QUEUED, JobState.SCHEDULED]
    shard.command(submission("c", cpu_milli=8000))
    shard.run("b")
    assert shard.states("a", "c") == [JobState.SCHEDULED, JobState.QUEUED]


def test_a_new_incarnation_ends_what_the_old_one_held() -> None:
    shard = running()
    events = shard.report(node(incarnation=2))
    assert any(isinstance(event, RetriesScheduled) for event in events)
    assert (shard.states("a"), shard.job("a").attempt) == ([JobState.SCHEDULED], 2)
    assert list(shard.state.nodes) == [2]
    assert shard.mail[0].registered


def test_an_old_incarnation_is_told_to_register_again_and_never_comes_back() -> None:
    shard = Shard()
    shard.report(node(incarnation=5))
    for report in (node(incarnation=4), heartbeat(incarnation=4)):
        shard.report(report)
        assert shard.mail[0].register_again
        assert shard.mail[0].incarnation == 4
    assert shard.state.incarnations == {"n1": 5}


def test_a_repeated_registration_is_only_acknowledged_again() -> None:
    shard = Shard()
    shard.report(node())
    assert shard.report(node()) == ()
    assert shard.mail[0].registered


def test_reports_about_another_attempt_or_an_unknown_task_are_refused() -> None:
    shard = running(backoff_s=0)
    old = shard.row("a", TaskState.ENDED)
    shard.says("a", TaskState.ENDED, failure=FailureClass.USER_ERROR)
    shard.wait(0)
    refused = shard.report(old)[0]
    assert isinstance(refused, ReportsRefused)
    assert refused.codes == ["other_attempt"]
    assert shard.states("a") == [JobState.SCHEDULED]


def test_a_doubled_report_changes_nothing() -> None:
    shard = running()
    started = shard.row("a", TaskState.STARTED)
    assert shard.report(started) == ()


def test_what_is_not_confirmed_is_sent_again_and_what_is_confirmed_is_not() -> None:
    shard = Shard()
    shard.report(node())
    shard.command(submission("a"), submission("b"))
    shard.says("a", TaskState.STARTED)
    again = resend(shard.state, epoch=2, before_seq=shard.state.seq + 1)
    assert [mail.starts.job_nos for mail in again] == [[2]]
    shard.command(cancel("a"))
    again = resend(shard.state, epoch=2, before_seq=0)
    assert [mail.stops.job_nos for mail in again] == [[1]]


def test_the_floor_rises_to_the_oldest_task_that_still_lives_on_the_node() -> None:
    shard = Shard()
    shard.report(node())
    shard.command(submission("a"))
    first = shard.mail[0].floor
    shard.command(submission("b"))
    assert shard.mail[0].floor == first
    shard.run("a")
    shard.command(submission("c"))
    assert shard.mail[0].floor == first + 1
