"""What agents must be told because of a decision: one `Dispatch` per node, in columns.

Pure functions of the state right after the decision. The engine sends them only once the record
has counted. `resend` makes the same from state alone, for what no agent has confirmed: after a
takeover, and from time to time; agents take each thing once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from schemas.dispatch import Dispatch, Releases, Starts, Stops
from schemas.events import AttemptsEnding, CancelsRequested, GangsReleased, TasksPlaced
from schemas.terms import JobTerms
from stream_processors.domain.decide import Decided
from stream_processors.domain.draft import Answer
from stream_processors.domain.state import Job, Node, State, Task, TaskPhase


@dataclass(slots=True)
class _ForNode:
    """What one incarnation is to be told."""

    node: str
    incarnation: int
    floor: int
    registered: bool = False
    register_again: bool = False
    starts: list[tuple[Job, int, Task]] = field(default_factory=list)
    releases: list[tuple[Job, int]] = field(default_factory=list)
    stops: list[tuple[Job, int, Task]] = field(default_factory=list)


@dataclass(slots=True)
class _Mail:
    """Everything to be told, by incarnation."""

    state: State
    nodes: dict[tuple[str, int], _ForNode] = field(default_factory=dict)

    def to(self, node: Node) -> _ForNode:
        """The part of one incarnation that the fold knows."""
        key = (node.name, node.incarnation)
        if key not in self.nodes:
            self.nodes[key] = _ForNode(*key, floor=floor_of(self.state, node))
        return self.nodes[key]

    def to_stranger(self, answer: Answer) -> _ForNode:
        """The part of an incarnation that the fold does not (or no longer) know."""
        key = (answer.node, answer.incarnation)
        if key not in self.nodes:
            self.nodes[key] = _ForNode(*key, floor=0)
        return self.nodes[key]


MAIL_BYTES_MAX = 2 * 1024 * 1024
"""Of starts in one record for a node, or a single bigger one: more starts are more records."""
_START_BYTES, _NAME_BYTES = 256, 1_024
"""What a start takes beside its spec, and a name in its terms, at most."""


def floor_of(state: State, node: Node) -> int:
    """The record below which nothing that was placed on this node lives or will be sent again."""
    first = next(iter(node.tasks), None)
    if first is None:
        return state.seq + 1
    no, index = first
    return state.jobs[no].tasks[index].seq


def dispatches(state: State, decided: Decided, epoch: int) -> list[Dispatch]:
    """What follows from one decision, for each node that it concerns."""
    mail = _Mail(state)
    for event in decided.events:
        if isinstance(event, TasksPlaced):
            _add_starts(mail, zip(event.job_nos, event.tasks, strict=True))
        elif isinstance(event, GangsReleased):
            for no in event.job_nos:
                _add_releases(mail, state.jobs[no])
        elif isinstance(event, AttemptsEnding | CancelsRequested):
            for no in event.job_nos:
                _add_stops(mail, state.jobs[no])
    for answer in decided.answers:
        _add_answer(mail, answer)
    return _sealed(mail, epoch)


def resend(state: State, epoch: int, before_seq: int) -> list[Dispatch]:
    """Starts placed before record `before_seq`, releases and stops that nobody has confirmed."""
    mail = _Mail(state)
    for node in state.nodes.values():
        for no, index in node.tasks:
            job = state.jobs[no]
            task = job.tasks[index]
            if job.is_ending:
                mail.to(node).stops.append((job, index, task))
            elif task.phase is TaskPhase.PLACED and task.seq < before_seq:
                mail.to(node).starts.append((job, index, task))
            elif task.phase is TaskPhase.READY and job.released:
                mail.to(node).releases.append((job, index))
    return _sealed(mail, epoch)


def _add_starts(mail: _Mail, placed: Iterable[tuple[int, int]]) -> None:
    for no, index in placed:
        job = mail.state.jobs[no]
        task = job.tasks[index]
        mail.to(mail.state.nodes[task.node_no]).starts.append((job, index, task))


def _living(mail: _Mail, job: Job) -> Iterable[tuple[int, Task, Node]]:
    for index, task in job.tasks.items():
        if task.phase is not TaskPhase.ENDED:
            yield index, task, mail.state.nodes[task.node_no]


def _add_releases(mail: _Mail, job: Job) -> None:
    for index, _, node in _living(mail, job):
        mail.to(node).releases.append((job, index))


def _add_stops(mail: _Mail, job: Job) -> None:
    for index, task, node in _living(mail, job):
        mail.to(node).stops.append((job, index, task))


def _add_answer(mail: _Mail, answer: Answer) -> None:
    node_no = mail.state.node_nos.get(answer.node)
    node = mail.state.nodes[node_no] if node_no is not None else None
    if node is not None and node.incarnation == answer.incarnation:
        mail.to(node).registered = True
    elif not answer.registered:
        mail.to_stranger(answer).register_again = True


def _sealed(mail: _Mail, epoch: int) -> list[Dispatch]:
    return [
        Dispatch(
            shard=mail.state.shard,
            epoch=epoch,
            node=part.node,
            incarnation=part.incarnation,
            floor=part.floor,
            registered=part.registered,
            register_again=part.register_again,
            starts=_starts(part),
            releases=_releases(part),
            stops=_stops(part),
        )
        for whole in mail.nodes.values()
        for part in _split(whole)
    ]


def _split(part: _ForNode) -> Iterator[_ForNode]:
    """The same in as many records as its specs need; everything else is in the last."""
    starts, size = part.starts, 0
    part.starts = []
    for start in starts:
        more = _start_size(start[0])
        if size + more > MAIL_BYTES_MAX and part.starts:
            yield _ForNode(part.node, part.incarnation, part.floor, starts=part.starts)
            part.starts, size = [], 0
        part.starts.append(start)
        size += more
    yield part


def _start_size(job: Job) -> int:
    terms = job.terms
    names = len(terms.extras) + len(terms.gpu_models) + 2 * len(terms.node_selector)
    return len(job.spec) + _START_BYTES + names * _NAME_BYTES


def _starts(part: _ForNode) -> Starts:
    terms: dict[JobTerms, int] = {}
    return Starts(
        job_nos=[job.no for job, _, _ in part.starts],
        job_ids=b"".join(job.job_id for job, _, _ in part.starts),
        attempts=[job.attempt for job, _, _ in part.starts],
        tasks=[index for _, index, _ in part.starts],
        seqs=[task.seq for _, _, task in part.starts],
        terms_of=[terms.setdefault(job.terms, len(terms)) for job, _, _ in part.starts],
        terms=list(terms),
        devices=[task.devices for _, _, task in part.starts],
        key_ids=[job.key_id for job, _, _ in part.starts],
        spec_schema_ids=[job.spec_schema_id for job, _, _ in part.starts],
        specs=[job.spec for job, _, _ in part.starts],
    )


def _releases(part: _ForNode) -> Releases:
    return Releases(
        job_nos=[job.no for job, _ in part.releases],
        attempts=[job.attempt for job, _ in part.releases],
        tasks=[index for _, index in part.releases],
        endpoints=[job.tasks[0].endpoint for job, _ in part.releases],
    )


def _stops(part: _ForNode) -> Stops:
    return Stops(
        job_nos=[job.no for job, _, _ in part.stops],
        attempts=[job.attempt for job, _, _ in part.stops],
        tasks=[index for _, index, _ in part.stops],
        seqs=[task.seq for _, _, task in part.stops],
        graces_s=[job.terms.grace_s for job, _, _ in part.stops],
        reasons=[job.ending.value for job, _, _ in part.stops],
    )
