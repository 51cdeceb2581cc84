"""What nodes are told fits into records, however big the specs are."""

from __future__ import annotations

from dataclasses import replace

from schemas.codec import encode
from schemas.dispatch import Dispatch
from schemas.events import CommandsRefused
from stream_processors.domain.decide import decide
from stream_processors.domain.draft import CommandAt, Inputs, Policy
from stream_processors.domain.effects import MAIL_BYTES_MAX, dispatches
from stream_processors.domain.state import initial_state
from tests.cluster import Shard, node, submission

POLICY = Policy(shards=1)


def test_starts_with_big_specs_leave_in_records_that_kafka_takes() -> None:
    state = initial_state(0)
    decide(state, Inputs(), 1, POLICY)
    decide(state, Inputs(reports=((0, node(cpu_milli=10**6, memory_mib=10**6)),)), 2, POLICY)
    jobs = [replace(submission(f"j{n}"), spec=b"s" * 1_000_000) for n in range(12)]
    received = tuple(CommandAt(offset, 2, job) for offset, job in enumerate(jobs))
    decided = decide(state, Inputs(received), 3, POLICY)
    mail: list[Dispatch] = dispatches(state, decided, 1)
    assert len(mail) == 6
    assert all(len(encode(one)) <= MAIL_BYTES_MAX + 10_000 for one in mail)
    assert [no for one in mail for no in one.starts.job_nos] == list(range(1, 13))
    assert {(one.node, one.incarnation, one.floor) for one in mail} == {
        (mail[0].node, 1, mail[0].floor)
    }


def test_specs_that_no_sender_could_hold_for_all_tasks_are_refused() -> None:
    shard = Shard()
    job = replace(submission("a", tasks=1_000), spec=b"s" * 100_000)
    refused = shard.command(job)[-1]
    assert isinstance(refused, CommandsRefused)
    assert refused.codes == ["spec_too_large"]
