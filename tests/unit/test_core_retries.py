"""What follows a failed attempt: whether, when, where, with how much memory, and within which bounds."""

from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.commands import PutPool, PutQueue
from schemas.events import (
    AttemptsEnding,
    CommandsRefused,
    DeadlinesPassed,
    JobsDeadLettered,
    JobsFailed,
    JobsSubmitted,
    RetriesScheduled,
)
from schemas.ids import format_job_id, parse_job_id
from schemas.terms import (
    FailureClass,
    JobState,
    QueueDefaults,
    QueueState,
    RetryRule,
    Switch,
    TaskState,
)
from stream_processors.domain.explain import explain
from stream_processors.domain.retries import HOUR_US
from stream_processors.domain.state import Job
from tests.cluster import SECOND, Shard, gang, node, only, shard_of_two, submission, uid

BROKEN = FailureClass.INFRASTRUCTURE
ERROR = FailureClass.USER_ERROR
OOM = FailureClass.OUT_OF_MEMORY


def put_pool(retries: Switch = Switch.KEEP, per_hour: int = -1) -> PutPool:
    return PutPool("default", "", "someone", retries, per_hour)


def put_queue(defaults: tuple[QueueDefaults, ...] = (), per_hour: int = -1) -> PutQueue:
    return PutQueue("default", "default", QueueState.OPEN, "", "someone", defaults, per_hour)


def fail_until_it_ends(shard: Shard, key: str, failure: FailureClass) -> int:
    """How many attempts the job had."""
    while shard.job(key).state not in (JobState.DEAD_LETTER, JobState.FAILED):
        shard.run(key, failure)
        shard.wait(4_000)
        assert shard.job(key).attempt < 50
    return shard.job(key).attempt


# Budgets of classes.


def test_infrastructure_has_a_budget_of_its_own_beside_the_jobs() -> None:
    shard = shard_of_two()
    shard.command(submission("a", max_retries=1))
    shard.run("a", BROKEN)
    shard.wait(4_000)
    shard.run("a", ERROR)
    shard.wait(4_000)
    assert shard.job("a").state is JobState.SCHEDULED, "the job's own retry was still there"
    shard.run("a", ERROR)
    assert shard.job("a").state is JobState.DEAD_LETTER


def test_a_class_that_always_fails_on_machines_ends_in_the_dead_letters_all_the_same() -> None:
    shard = shard_of_two()
    shard.command(submission("a", max_retries=0))
    assert fail_until_it_ends(shard, "a", BROKEN) == 11


def test_a_rule_gives_its_class_another_budget_and_backoff() -> None:
    rule = RetryRule(ERROR, max_retries=2, backoff_s=100, backoff_max_s=100)
    shard = shard_of_two()
    shard.command(submission("a", max_retries=0, retry_rules=(rule,)))
    scheduled = only(shard.run("a", ERROR), RetriesScheduled)
    assert 50 * SECOND <= scheduled.due_ats[0] - shard.now <= 100 * SECOND
    shard.wait(100)
    assert fail_until_it_ends(shard, "a", ERROR) == 3


def test_a_rule_of_no_retries_makes_its_class_a_plain_failure() -> None:
    shard = shard_of_two()
    shard.command(submission("a", retry_rules=(RetryRule(ERROR, max_retries=0),)))
    assert isinstance(shard.run("a", ERROR)[-1], JobsFailed)


@pytest.mark.parametrize(
    "rules",
    [
        (RetryRule(FailureClass.POISON, 3),),
        (RetryRule(ERROR, 1), RetryRule(ERROR, 2)),
        (RetryRule(ERROR, -2),),
        (RetryRule(ERROR, 1, backoff_s=-5),),
        (RetryRule(ERROR, 1, backoff_multiplier_milli=1),),
    ],
)
def test_rules_that_make_no_sense_are_refused(rules: tuple[RetryRule, ...]) -> None:
    shard = Shard()
    refused = only(shard.command(submission("a", retry_rules=rules)), CommandsRefused)
    assert refused.codes == ["invalid_terms"]


def test_poison_goes_to_the_dead_letters_at_once() -> None:
    shard = shard_of_two()
    shard.command(submission("a", max_retries=5))
    assert only(shard.run("a", FailureClass.POISON), JobsDeadLettered).attempts == [1]


def test_a_lost_node_is_followed_by_another_in_the_same_decision_unless_a_rule_says_when() -> None:
    shard = shard_of_two()
    rule = RetryRule(FailureClass.NODE_LOST, backoff_s=60)
    shard.command(submission("a"), submission("b", retry_rules=(rule,)))
    assert shard.node_of("a") == shard.node_of("b") == "n1"
    shard.lose("n1")
    assert shard.node_of("a") == "n2"
    assert shard.job("b").state is JobState.RETRYING
    assert shard.job("b").due_at - shard.now >= 30 * SECOND


# Where and with how much memory.


def test_the_next_attempt_keeps_off_the_node_that_failed_it() -> None:
    shard = shard_of_two()
    shard.command(submission("a"))
    assert shard.node_of("a") == "n1"
    shard.run("a", BROKEN)
    shard.wait(4_000)
    assert shard.node_of("a") == "n2"


def test_a_node_to_keep_off_is_taken_where_no_other_could_ever_do() -> None:
    shard = shard_of_two()
    shard.report(node("big", cpu_milli=32_000))
    shard.command(submission("a", cpu_milli=20_000))
    shard.run("a", BROKEN)
    shard.wait(4_000)
    assert shard.node_of("a") == "big"


def test_a_gang_keeps_off_the_node_of_the_member_that_failed_and_not_of_the_others() -> None:
    shard = Shard()
    shard.report(*(node(f"n{number}", cpu_milli=1000) for number in range(4)))
    shard.command(gang("g", 2))
    shard.says("g", TaskState.ENDED, 1, BROKEN)
    shard.says("g", TaskState.ENDED, 0, FailureClass.CANCELLED)
    shard.wait(4_000)
    assert {shard.node_of("g", index) for index in (0, 1)} == {"n0", "n2"}


def test_a_member_that_is_never_ready_has_its_node_avoided() -> None:
    shard = Shard()
    shard.report(*(node(f"n{number}", cpu_milli=1000) for number in range(4)))
    shard.command(gang("g", 2, start_timeout_s=5))
    shard.says("g", TaskState.READY, 0)
    shard.wait(6)
    for index in (0, 1):
        shard.says("g", TaskState.ENDED, index, FailureClass.CANCELLED)
    assert shard.job("g").avoid == ("n1",)


def test_a_job_that_waits_for_other_nodes_says_so() -> None:
    shard = shard_of_two()
    shard.command(submission("a", cpu_milli=8000))
    shard.run("a", BROKEN)
    shard.command(submission("b", cpu_milli=8000, priority=1), submission("c", cpu_milli=8000))
    shard.wait(4_000)
    found = explain(shard.state, parse_job_id(uid("a")) or b"")
    assert found is not None
    assert "avoids" in [reason.code for reason in found.reasons]


def test_memory_grows_after_running_out_of_it_up_to_what_is_allowed() -> None:
    shard = shard_of_two()
    shard.command(submission("a", memory_mib=1000, memory_max_mib=2000, max_retries=5))
    asked = []
    for _ in range(4):
        asked.append(shard.job("a").terms.memory_mib)
        shard.run("a", OOM)
        shard.wait(4_000)
    assert asked == [1000, 1500, 2000, 2000]


def test_memory_never_grows_beyond_the_largest_node() -> None:
    shard = shard_of_two()
    shard.command(submission("a", memory_mib=12_000))
    shard.run("a", OOM)
    shard.wait(4_000)
    assert shard.job("a").terms.memory_mib == 16_384
    assert shard.job("a").state is JobState.SCHEDULED


def test_the_agent_is_told_the_grown_memory() -> None:
    shard = shard_of_two()
    shard.command(submission("a", memory_mib=1000))
    shard.run("a", OOM)
    shard.wait(4_000)
    assert [one.starts.terms[0].memory_mib for one in shard.mail if one.starts.terms] == [1500]


# Bounds of queue and tenant, and the switch.


def test_a_queue_puts_off_retries_beyond_those_of_an_hour() -> None:
    shard = shard_of_two()
    shard.command(put_queue(per_hour=2))
    keys = [f"j{number}" for number in range(4)]
    shard.command(*(submission(key, max_retries=9, backoff_s=0) for key in keys))
    dues = [only(shard.run(key, ERROR), RetriesScheduled).due_ats[0] - shard.now for key in keys]
    assert dues == [0, 0, HOUR_US // 2, HOUR_US]


def test_retries_of_one_decision_share_the_budget() -> None:
    shard = shard_of_two()
    shard.command(put_pool(per_hour=1))
    shard.command(*(submission(key, backoff_s=0) for key in ("a", "b")))
    ends = [shard.row(key, TaskState.ENDED, failure=ERROR) for key in ("a", "b")]
    scheduled = only(shard.report(*ends), RetriesScheduled)
    assert [due - shard.now for due in scheduled.due_ats] == [0, HOUR_US]


def test_one_tenants_retries_do_not_put_off_anothers_and_lost_nodes_none() -> None:
    shard = shard_of_two()
    shard.command(put_pool(per_hour=1))
    shard.command(submission("a", backoff_s=0), submission("b", backoff_s=0, tenant="other"))
    shard.run("a", ERROR)
    other = format_job_id(shard.state.jobs[2].job_id)
    assert other == uid("b", tenant="other")
    shard.command(submission("c", backoff_s=0))
    shard.lose("n1")
    assert shard.job("c").due_at <= shard.now


def test_no_retry_is_due_while_they_are_switched_off_and_all_of_them_are_afterwards() -> None:
    shard = shard_of_two()
    shard.command(*(submission(key) for key in ("a", "b")))
    shard.run("a", ERROR)
    shard.command(put_pool(Switch.OFF))
    shard.run("b", ERROR)
    shard.wait(10_000)
    assert shard.states("a", "b") == [JobState.RETRYING, JobState.RETRYING]
    found = explain(shard.state, parse_job_id(uid("a")) or b"")
    assert found is not None
    assert found.reasons[0].code == "retries_off"
    shard.command(put_pool(Switch.ON))
    shard.wait(1)
    assert shard.states("a", "b") == [JobState.SCHEDULED, JobState.SCHEDULED]


def test_what_a_queue_gives_is_written_into_the_event_and_can_be_overridden() -> None:
    shard = Shard()
    shard.command(put_queue((QueueDefaults(max_retries=7, timeout_s=60),)))
    submitted = only(shard.command(submission("a", timeout_s=5), submission("b")), JobsSubmitted)
    assert [(t.max_retries, t.timeout_s) for t in submitted.terms] == [(7, 5), (7, 60)]
    shard.command(put_queue(per_hour=5))
    assert shard.state.queues["default", "default"].defaults.max_retries == 7, "kept"


def test_defaults_of_a_queue_that_no_job_could_have_are_refused() -> None:
    shard = Shard()
    refused = only(shard.command(put_queue((QueueDefaults(timeout_s=0),))), CommandsRefused)
    assert "timeout_s" in refused.messages[0]


# Deadlines.


def test_a_job_that_waits_beyond_its_deadline_has_failed() -> None:
    shard = Shard()
    shard.command(submission("a", deadline_s=60))
    shard.wait(59)
    assert shard.states("a") == [JobState.QUEUED]
    failed = only(shard.wait(1), JobsFailed)
    assert failed.failures == [FailureClass.TIMEOUT]
    assert "deadline_s = 60" in failed.messages[0]


def test_a_job_that_runs_beyond_its_deadline_is_stopped_and_not_retried() -> None:
    shard = shard_of_two()
    shard.command(submission("a", deadline_s=60, max_retries=5))
    shard.says("a", TaskState.STARTED)
    events = shard.wait(60)
    assert [type(event) for event in events] == [DeadlinesPassed, AttemptsEnding]
    shard.says("a", TaskState.ENDED, failure=FailureClass.CANCELLED)
    assert shard.job("a").state is JobState.FAILED


def test_a_deadline_that_passes_while_an_attempt_ends_is_not_forgotten() -> None:
    shard = Shard()
    shard.report(node("n1"), node("n2"))
    shard.command(gang("g", 2, deadline_s=60, max_retries=5))
    shard.says("g", TaskState.ENDED, 0, ERROR)
    assert only(shard.wait(60), DeadlinesPassed).job_nos == [1]
    shard.says("g", TaskState.ENDED, 1, FailureClass.CANCELLED)
    assert shard.job("g").state is JobState.FAILED


def test_a_success_of_a_job_that_was_told_to_stop_at_its_deadline_is_none() -> None:
    shard = shard_of_two()
    shard.command(submission("a", deadline_s=60))
    shard.says("a", TaskState.STARTED)
    shard.wait(60)
    shard.says("a", TaskState.ENDED)
    assert shard.job("a").state is JobState.FAILED, (
        "it was told to stop: what it says is no success"
    )


def test_old_logs_without_the_new_columns_fold_as_they_did() -> None:
    shard = shard_of_two()
    shard.command(submission("a"))
    job: Job = shard.job("a")
    job.terms = replace(job.terms, deadline_s=-1, memory_growth_milli=-1, memory_max_mib=-1)
    shard.run("a", OOM)
    assert shard.job("a").terms.memory_mib == 1024
