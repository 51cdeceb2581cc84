"""The attempts that follow failed ones: when, away from which nodes, with how much memory.

Joins the rules of `retries.py` with what the fold knows of queues, tenants and nodes. Reads the
state, answers the event; `attempts.py` emits it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.events import RetriesScheduled
from schemas.terms import FailureClass
from stream_processors.domain.capacity import admits
from stream_processors.domain.fold_ends import AVOIDED_MAX
from stream_processors.domain.retries import (
    cost,
    culprits,
    delay_us,
    failure_fingerprint,
    grown_memory,
    pace,
    paced_at,
)
from stream_processors.domain.state import Job, State


@dataclass(slots=True)
class _Paces:
    """How far the budgets of queues and tenants are used, with the rows decided so far."""

    state: State
    queues: dict[tuple[str, str], int] = field(default_factory=dict)
    tenants: dict[tuple[str, str], int] = field(default_factory=dict)

    def take(self, job: Job) -> int:
        """Use both budgets for one retry; the earliest moment that they allow."""
        state, terms = self.state, job.terms
        queue, pool = state.queues[terms.pool, terms.queue], state.pools[terms.pool]
        earliest = 0
        if queue.retries_per_hour:
            key = (terms.pool, terms.queue)
            until = self.queues.get(key, queue.retry_until)
            self.queues[key] = pace(until, state.at, queue.retries_per_hour)
            earliest = paced_at(self.queues[key])
        if pool.tenant_retries_per_hour:
            key = (terms.pool, terms.tenant)
            until = self.tenants.get(key, pool.retry_until.get(terms.tenant, 0))
            self.tenants[key] = pace(until, state.at, pool.tenant_retries_per_hour)
            earliest = max(earliest, paced_at(self.tenants[key]))
        return earliest


def schedule_retries(
    state: State, rows: list[tuple[int, int, FailureClass, str]]
) -> RetriesScheduled:
    """The event that says when each of these (job, attempt, failure, message) is followed."""
    event = RetriesScheduled([], [], [], [], [], [])
    paces = _Paces(state)
    for row, (no, attempt, failure, message) in enumerate(rows):
        job = state.jobs[no]
        due_at = state.at + delay_us(job, failure)
        if cost(failure):
            due_at = max(due_at, paces.take(job))
        event.job_nos.append(no)
        event.attempts.append(attempt)
        event.due_ats.append(due_at)
        event.costs.append(cost(failure))
        event.failures.append(failure)
        event.messages.append(message)
        event.fingerprints.append(failure_fingerprint(failure, message, list(job.tasks.values())))
        blamed = [name for name in culprits(job, failure) if name not in job.avoid]
        for name in blamed[:AVOIDED_MAX]:
            event.avoid_rows.append(row)
            event.avoid_nodes.append(name)
        if failure is FailureClass.OUT_OF_MEMORY:
            memory_mib = grown_memory(job.terms, _largest_mib(state, job))
            if memory_mib > job.terms.memory_mib:
                event.memory_rows.append(row)
                event.memories_mib.append(memory_mib)
    return event


def _largest_mib(state: State, job: Job) -> int:
    """The memory of the largest node that may take the job: with more it would wait for ever."""
    nodes = (state.nodes[node_no] for node_no in state.pools[job.terms.pool].nodes)
    return max((node.memory_mib for node in nodes if admits(node, job.terms)), default=0)
