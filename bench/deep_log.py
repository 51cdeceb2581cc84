"""A long history of one shard, decided by the real core: the log of a fold that is deep.

Makes the records that an engine would have written for so many jobs: submitted in bulk, six of ten
placed, started and ended on one paper node, the rest still queued (they ask for a GPU that nobody
has). Pure; `bench/restart.py` puts the records on a real log.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields

from schemas import codec
from schemas.commands import SubmitJobs
from schemas.dispatch import Starts
from schemas.envelope import LOG_FORMAT, Claim, Consumed, Decision, Input
from schemas.events import Event
from schemas.reports import RegisterNode, TasksReported
from schemas.terms import FailureClass, JobSpec, JobTerms, Micros, TaskState
from stream_processors.domain.counting import GENESIS, Chain, judge
from stream_processors.domain.decide import decide
from stream_processors.domain.draft import CommandAt, Inputs, Policy
from stream_processors.domain.effects import dispatches
from stream_processors.domain.state import State, initial_state

OWNER = b"bench, deep log."
NODE = "deep"
PLENTY = 1 << 40
LEASE_S = 3_600
ROWS = 1_000
"""Jobs of one submission, and so of one decision."""
RUN_OF_TEN = 6
TENANTS = 20
PRIORITIES = 5
EPOCH = 1
APART_US = 10_000


@dataclass(slots=True)
class DeepLog:
    """Decides one batch after the other on a state of its own; `rows` is what it has said so far.

    A row is an entry of a columnar event: one job submitted, one task placed, one task started, one
    job started, one task ended, one job succeeded. `at` is the log's time (UTC microseconds).
    """

    at: int
    state: State = field(default_factory=lambda: initial_state(0))
    chain: Chain = GENESIS
    rows: int = 0
    commands: int = 0
    reports: int = 0

    def records(self, jobs: int) -> Iterator[bytes]:
        """The values of the log's records, the claim first; `jobs` in thousands."""
        claim = codec.encode(Claim(LOG_FORMAT, EPOCH, OWNER, Micros(self.at)))
        self.chain, _ = judge(self.chain, codec.decode(claim), claim, 0)
        yield claim
        yield self._hear(_registration())[0]
        for batch in range(jobs // ROWS):
            value, starts = self._submit(batch)
            yield value
            if starts is not None:
                for state in (TaskState.STARTED, TaskState.ENDED):
                    yield self._hear(_report(starts, state, self.at))[0]

    def _submit(self, batch: int) -> tuple[bytes, Starts | None]:
        offset, self.commands = self.commands, self.commands + 1
        command = CommandAt(offset, self.at, _submission(batch))
        consumed = Consumed(Input.COMMANDS, offset, offset + 1)
        return self._decide(Inputs(commands=(command,)), consumed)

    def _hear(self, report: RegisterNode | TasksReported) -> tuple[bytes, Starts | None]:
        offset, self.reports = self.reports, self.reports + 1
        consumed = Consumed(Input.REPORTS, offset, offset + 1)
        return self._decide(Inputs(reports=((offset, report),)), consumed)

    def _decide(self, inputs: Inputs, consumed: Consumed) -> tuple[bytes, Starts | None]:
        self.at += APART_US
        decided = decide(self.state, inputs, self.at, _policy())
        self.rows += sum(map(rows_of, decided.events))
        record = Decision(
            LOG_FORMAT,
            EPOCH,
            OWNER,
            self.chain.seq + 1,
            self.chain.value,
            Micros(self.at),
            (consumed,),
            tuple(map(codec.encode_event, decided.events)),
        )
        value = codec.encode(record)
        self.chain, verdict = judge(self.chain, record, value, self.chain.next_offset)
        assert verdict.counts, verdict
        mail = dispatches(self.state, decided, EPOCH)
        return value, mail[0].starts if mail and mail[0].starts.job_nos else None


def rows_of(event: Event) -> int:
    """How many entries the event's columns have; 1 for one that has no columns."""
    columns = ("job_nos", "offsets", "node_nos")
    names = {one.name for one in fields(event)}
    return next((len(getattr(event, name)) for name in columns if name in names), 1)


def _policy() -> Policy:
    return Policy(shards=1)


def _registration() -> RegisterNode:
    return RegisterNode(
        node=NODE,
        pool="default",
        incarnation=1,
        address="127.0.0.1",
        cpu_milli=PLENTY,
        memory_mib=PLENTY,
        gpus=(),
        extras=(),
        labels=(),
        lease_s=LEASE_S,
        sent_at=Micros(0),
    )


def _submission(batch: int) -> SubmitJobs:
    small = [JobTerms(tenant=f"tenant-{n}", cpu_milli=10, memory_mib=10) for n in range(TENANTS)]
    waiting = [
        JobTerms(tenant=f"tenant-{n}", cpu_milli=10, memory_mib=10, gpu_milli=1000)
        for n in range(TENANTS)
    ]
    encoded = [codec.encode_body(_spec(batch, row)) for row in range(ROWS)]
    return SubmitJobs(
        terms=small + waiting,
        terms_of=[row % TENANTS + (0 if row % 10 < RUN_OF_TEN else TENANTS) for row in range(ROWS)],
        idempotency_keys=[f"{batch}-{row}" for row in range(ROWS)],
        priorities=[row % PRIORITIES for row in range(ROWS)],
        key_id=0,
        actor="bench",
        spec_schema_id=encoded[0][0],
        specs=[data for _, data in encoded],
    )


def _spec(batch: int, row: int) -> JobSpec:
    return JobSpec(
        job_type="training",
        name=f"train-{batch}-{row}",
        command=("python", "train.py", "--seed", str(row), "--lr", "0.001"),
        config=f'{{"epochs": 10, "batch": 32, "data": "set-{batch}", "seed": {row}}}',
    )


def _report(starts: Starts, state: TaskState, at: int) -> TasksReported:
    count = len(starts.job_nos)
    return TasksReported(
        node=NODE,
        pool="default",
        incarnation=1,
        job_nos=starts.job_nos,
        attempts=starts.attempts,
        tasks=starts.tasks,
        states=[state] * count,
        ats=[at] * count,
        exit_codes=[0] * count,
        failures=[FailureClass.NONE] * count,
        messages=[""] * count,
        endpoints=[""] * count,
    )
