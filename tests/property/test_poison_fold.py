"""Any bytes on the inputs: nothing raises, everything is answered, and every view can be made."""

from __future__ import annotations

from random import Random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.codec import encode
from schemas.commands import SubmitJob
from schemas.terms import JobState, JobTerms, TaskState
from schemas.topics import COMMANDS, REPORTS
from tests.message_samples import instances
from tests.poison_inputs import command, job_spec, live, registration, submit
from tests.poison_world import PoisonShard, damage

quick = settings(
    max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None
)
ANY_COMMAND = st.one_of(*(instances(cls) for cls in COMMANDS.messages))
ANY_REPORT = st.one_of(*(instances(cls) for cls in REPORTS.messages))
SEEDS = st.integers(0, 2**32)


@quick
@given(seed=SEEDS, steps=st.integers(5, 40))
def test_spoilt_inputs_are_answered_and_break_nothing(seed: int, steps: int) -> None:
    shard = PoisonShard(retain_finished_s=20)
    live(shard, Random(seed), steps)
    shard.check_answers()
    shard.check_fold()


@quick
@given(
    commands=st.lists(st.one_of(ANY_COMMAND.map(encode), st.binary(max_size=60)), max_size=8),
    reports=st.lists(st.one_of(ANY_REPORT.map(encode), st.binary(max_size=60)), max_size=8),
)
def test_any_inputs_are_answered_and_break_nothing(
    commands: list[bytes], reports: list[bytes]
) -> None:
    shard = PoisonShard()
    shard.take_reports(encode(registration("n1", 1)))
    shard.take_commands(encode(submit(Random(1))))
    shard.take_commands(*commands, None)
    shard.take_reports(*reports, None)
    shard.pass_time(5)
    shard.check_answers()
    shard.check_fold()


@quick
@given(seed=SEEDS)
def test_a_good_job_succeeds_among_poison(seed: int) -> None:
    chance = Random(seed)
    shard = PoisonShard()
    poison = [damage(encode(command(chance)), chance) for _ in range(5)]
    shard.take_commands(*poison)
    shard.take_reports(encode(registration("n1", 1)), *poison)
    good = SubmitJob(JobTerms(), "good", 50, (), 0, "me", spec=job_spec(chance))
    shard.take_commands(*poison, encode(good))
    for said in (TaskState.STARTED, TaskState.ENDED):
        shard.take_reports(*poison, encode(shard.row("good", said)))
    assert shard.states("good") == [JobState.SUCCEEDED]
    shard.check_answers()
