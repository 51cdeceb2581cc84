"""Commands: given a shard, when this is asked, then these events, or this refusal."""

from __future__ import annotations

from infra.state_codec import Snapshot, decode_snapshot, encode_snapshot
from schemas.commands import CancelJob, SubmitJobs
from schemas.events import (
    CommandsRefused,
    Event,
    JobsCancelled,
    JobsSubmitted,
    PoolChanged,
    QueueChanged,
    SubmissionsRepeated,
)
from schemas.terms import (
    DEFAULTS_VERSION,
    Condition,
    FailureClass,
    JobState,
    JobTerms,
    QueueState,
    TaskState,
)
from stream_processors.domain.counting import GENESIS
from stream_processors.domain.draft import Unreadable
from stream_processors.domain.fingerprint import fingerprint
from tests.cluster import Shard, cancel, gang, node, put_queue, submission, uid


def refusal(events: tuple[Event, ...]) -> tuple[str, str]:
    refused = next(event for event in events if isinstance(event, CommandsRefused))
    return refused.codes[0], refused.messages[0]


def test_the_first_decision_creates_the_default_pool_and_queue() -> None:
    shard = Shard()
    first, second = shard.wait(0)
    assert isinstance(first, PoolChanged)
    assert isinstance(second, QueueChanged)
    assert second.name == "default"


def test_a_submission_is_queued_with_its_defaults_written_into_the_event() -> None:
    shard = Shard()
    events = shard.command(submission("a"))
    submitted = events[-1]
    assert isinstance(submitted, JobsSubmitted)
    assert submitted.terms[0].queue == "default"
    assert submitted.terms[0].timeout_s == 86_400
    assert submitted.defaults_version == DEFAULTS_VERSION
    assert shard.states("a") == [JobState.QUEUED]


def test_a_repeated_submission_is_the_same_job() -> None:
    shard = Shard()
    shard.command(submission("a"))
    assert shard.command(submission("a")) == (SubmissionsRepeated([1], [1]),)
    assert len(shard.state.jobs) == 1


def test_a_submission_repeated_within_one_batch_is_the_same_job() -> None:
    shard = Shard()
    shard.command(submission("a"), submission("a"))
    assert len(shard.state.jobs) == 1


def test_the_same_key_with_another_spec_is_refused() -> None:
    shard = Shard()
    shard.command(submission("a", priority=1))
    assert refusal(shard.command(submission("a", priority=2)))[0] == "idempotency_key_reused"
    assert shard.job("a").priority == 1


def test_an_unknown_queue_is_refused_with_what_to_do() -> None:
    code, message = refusal(Shard().command(submission("a", queue="research")))
    assert code == "queue_not_found"
    assert "PUT /queues/research" in message


def test_an_unknown_cluster_is_refused() -> None:
    assert refusal(Shard().command(submission("a", pool="mars")))[0] == "cluster_not_found"


def test_terms_that_make_no_sense_are_refused() -> None:
    for terms in (
        {"cpu_milli": -2},
        {"gpu_milli": 1500},
        {"tasks": 0},
        {"tasks": 4, "min_members": 2},
        {"timeout_s": 0},
        {"queue": "Upper"},
    ):
        assert refusal(Shard().command(submission("a", **terms)))[0] == "invalid_terms", terms
    assert refusal(Shard().command(submission("a", priority=101)))[0] == "invalid_priority"


def test_an_unreadable_command_is_refused_with_its_reason() -> None:
    events = Shard().command(Unreadable("malformed", "not Avro"))
    assert refusal(events) == ("malformed", "not Avro")


def test_a_batch_submission_makes_one_job_a_row_and_refuses_bad_rows_alone() -> None:
    shard = Shard()
    batch = SubmitJobs(
        [JobTerms()], [0, 7, 0], ["a", "b", "c"], [1, 1, 200], 0, "me", 44, [b""] * 3
    )
    shard.command(batch)
    assert [job.priority for job in shard.state.jobs.values()] == [1]
    refused = shard.events[-1]
    assert isinstance(refused, CommandsRefused)
    assert refused.rows == [1, 2]


def test_cancelling_a_waiting_job_ends_it_at_once() -> None:
    shard = Shard()
    shard.command(submission("a"))
    shard.command(cancel("a"))
    assert shard.states("a") == [JobState.CANCELLED]
    assert not shard.state.pools["default"].lanes


def test_cancelling_what_is_not_there_or_has_ended_is_refused() -> None:
    shard = Shard()
    assert refusal(shard.command(cancel("a")))[0] == "job_not_found"
    shard.command(submission("a"), cancel("a"))
    assert refusal(shard.command(cancel("a")))[0] == "job_ended"


def test_a_job_waits_for_the_jobs_it_depends_on() -> None:
    shard = Shard()
    shard.report(node())
    shard.command(submission("a"), submission("b", depends_on=[(uid("a"), Condition.SUCCEEDED)]))
    assert shard.states("a", "b") == [JobState.SCHEDULED, JobState.QUEUED]
    shard.run("a")
    assert shard.states("a", "b") == [JobState.SUCCEEDED, JobState.SCHEDULED]


def test_a_job_whose_dependency_failed_is_cancelled_and_so_are_those_behind_it() -> None:
    shard = Shard()
    shard.report(node())
    shard.command(
        submission("a", max_retries=0),
        submission("b", depends_on=[(uid("a"), Condition.SUCCEEDED)]),
        submission("c", depends_on=[(uid("b"), Condition.SUCCEEDED)]),
        submission("d", depends_on=[(uid("b"), Condition.ENDED)]),
    )
    shard.run("a", FailureClass.USER_ERROR)
    assert shard.states("a", "b", "c", "d") == [
        JobState.DEAD_LETTER,
        JobState.CANCELLED,
        JobState.CANCELLED,
        JobState.SCHEDULED,
    ]
    assert not shard.state.dependents


def test_a_dependency_that_is_not_known_or_has_failed_is_refused() -> None:
    shard = Shard()
    behind = submission("b", depends_on=[(uid("a"), Condition.SUCCEEDED)])
    assert refusal(shard.command(behind))[0] == "dependency_not_found"
    shard.command(submission("a"), cancel("a"))
    assert refusal(shard.command(behind))[0] == "dependency_failed"


def test_a_job_cannot_depend_on_itself() -> None:
    loop = submission("a", depends_on=[(uid("a"), Condition.SUCCEEDED)])
    assert refusal(Shard().command(loop))[0] == "dependency_not_found"


def test_cancelling_a_job_that_waits_for_another_leaves_nothing_behind() -> None:
    shard = Shard()
    shard.command(submission("a"), submission("b", depends_on=[(uid("a"), Condition.ENDED)]))
    assert isinstance(shard.command(cancel("b"))[-1], JobsCancelled)
    assert not shard.state.dependents


def test_a_paused_queue_accepts_and_starts_nothing_until_it_is_opened() -> None:
    shard = Shard()
    shard.report(node())
    shard.command(put_queue("slow", QueueState.PAUSED), submission("a", queue="slow"))
    assert shard.states("a") == [JobState.QUEUED]
    shard.command(put_queue("slow", QueueState.OPEN))
    assert shard.states("a") == [JobState.SCHEDULED]


def test_a_draining_queue_serves_what_it_has_and_accepts_nothing() -> None:
    shard = Shard()
    shard.command(put_queue("old"), submission("a", queue="old"))
    shard.command(put_queue("old", QueueState.DRAINING))
    assert refusal(shard.command(submission("b", queue="old")))[0] == "queue_draining"
    shard.report(node())
    assert shard.states("a") == [JobState.SCHEDULED]


def test_ended_jobs_are_forgotten_after_their_time_and_their_key_is_free_again() -> None:
    shard = Shard(retain_finished_s=60)
    shard.report(node())
    shard.command(submission("a"))
    shard.run("a")
    shard.wait(59)
    assert shard.state.jobs
    shard.wait(1)
    assert not shard.state.jobs
    assert shard.state.forgotten == 1
    shard.command(submission("a", priority=3))
    assert shard.job("a").no == 2


def test_a_gang_that_is_cancelled_ends_only_when_its_last_member_is_dead() -> None:
    shard = Shard()
    shard.report(node())
    shard.command(gang("g", 2))
    shard.command(cancel("g"))
    assert shard.mail[0].stops.reasons == ["cancelled", "cancelled"]
    shard.says("g", TaskState.ENDED, 0, FailureClass.CANCELLED)
    assert shard.states("g") == [JobState.SCHEDULED]
    shard.says("g", TaskState.ENDED, 1, FailureClass.CANCELLED)
    assert shard.states("g") == [JobState.CANCELLED]


def test_a_snapshot_can_be_taken_and_restored_after_jobs_were_forgotten() -> None:
    shard = Shard(retain_finished_s=1)
    shard.command(*[submission(f"job{number}") for number in range(20)])
    shard.command(*[cancel(f"job{number}") for number in range(20)])
    shard.wait(2)
    assert shard.state.forgotten == 20
    data = encode_snapshot(Snapshot(0, GENESIS, shard.state))
    assert fingerprint(decode_snapshot(data).state) == fingerprint(shard.state)


def test_a_reason_with_a_nul_is_kept_as_every_view_can_hold_it() -> None:
    shard = Shard()
    shard.command(submission("a"))
    shard.command(CancelJob(uid("a"), "nul\0here", "someone"))
    assert shard.job("a").message == "nul\ufffdhere"
