"""Reports become events: what agents say is checked against what the fold knows.

A report about another attempt or incarnation is refused, as an event. Heartbeats change no state:
the engine's shell counts leases by its own clock. Registrations are accepted only upwards.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.events import (
    NodeRegistered,
    NodesDraining,
    NodesLost,
    ReportsRefused,
    TasksEnded,
    TasksReady,
    TasksStarted,
)
from schemas.reports import DrainNode, Heartbeat, Probe, RegisterNode, TasksReported
from schemas.terms import FailureClass, TaskState
from stream_processors.domain.draft import Answer, Draft, Report, Unreadable
from stream_processors.domain.limits import plain_text
from stream_processors.domain.state import Job, Node, Task, TaskPhase

MESSAGE_MAX = 2_000
LOST_MAX = 4
"""Nodes lost by one decision at most, so that what follows for their tasks fits in one record."""

_Row = tuple[int, int, int]


@dataclass(slots=True)
class _Heard:
    """Accepted rows not yet emitted, and how far each task has come with them."""

    ready: list[tuple[_Row, str]] = field(default_factory=list)
    started: list[_Row] = field(default_factory=list)
    ended: list[tuple[_Row, int, FailureClass, str]] = field(default_factory=list)
    phases: dict[_Row, TaskPhase] = field(default_factory=dict)
    refused: list[tuple[int, str, int, str, int]] = field(default_factory=list)


def hear(draft: Draft, reports: tuple[tuple[int, Report], ...]) -> None:
    """Decide reports in their order."""
    heard = _Heard()
    for offset, report in reports:
        if isinstance(report, TasksReported):
            _hear_tasks(draft, heard, offset, report)
        elif isinstance(report, RegisterNode):
            heard = _flush(draft, heard)
            _hear_registration(draft, heard, offset, report)
        elif isinstance(report, Heartbeat):
            _hear_heartbeat(draft, report)
        elif isinstance(report, DrainNode):
            heard = _flush(draft, heard)
            _hear_drain(draft, report)
        elif isinstance(report, Unreadable):
            heard.refused.append((offset, "", 0, report.code, 1))
        else:
            assert isinstance(report, Probe), report
    _flush(draft, heard)


def expire(draft: Draft, node_nos: tuple[int, ...]) -> None:
    """Incarnations whose lease has surely run out are lost."""
    lost = [node_no for node_no in node_nos if node_no in draft.state.nodes][:LOST_MAX]
    if not lost:
        return
    _touch(draft, lost)
    draft.emit(NodesLost(lost, ["its lease ran out"] * len(lost)))


def _touch(draft: Draft, node_nos: list[int]) -> None:
    for node_no in node_nos:
        draft.touched.update((no, None) for no, _ in draft.state.nodes[node_no].tasks)


def _current(draft: Draft, name: str, incarnation: int) -> Node | None:
    node_no = draft.state.node_nos.get(name)
    node = draft.state.nodes[node_no] if node_no is not None else None
    return node if node is not None and node.incarnation == incarnation else None


def _hear_registration(draft: Draft, heard: _Heard, offset: int, report: RegisterNode) -> None:
    state = draft.state
    if _current(draft, report.node, report.incarnation):
        draft.answers.append(Answer(report.node, report.incarnation, registered=True))
        return
    code = ""
    if report.pool not in state.pools:
        code = "cluster_not_found"
    elif report.incarnation <= state.incarnations.get(report.node, -1):
        code = "old_incarnation"
        draft.answers.append(Answer(report.node, report.incarnation, registered=False))
    elif not _is_sound(report):
        code = "malformed"
    if code:
        heard.refused.append((offset, report.node, report.incarnation, code, 1))
        return
    earlier = state.node_nos.get(report.node)
    if earlier is not None:
        _touch(draft, [earlier])
    draft.emit(
        NodeRegistered(
            node_no=state.next_node_no,
            node=report.node,
            pool=report.pool,
            incarnation=report.incarnation,
            address=report.address,
            cpu_milli=report.cpu_milli,
            memory_mib=report.memory_mib,
            gpus=report.gpus,
            extras=report.extras,
            labels=report.labels,
            lease_s=report.lease_s,
        )
    )
    draft.answers.append(Answer(report.node, report.incarnation, registered=True))


def _is_sound(report: RegisterNode) -> bool:
    amounts = [report.cpu_milli, report.memory_mib, *(extra.amount for extra in report.extras)]
    whole = all(amount >= 0 for amount in amounts) and len(report.gpus) <= 255
    whole = whole and len({extra.name for extra in report.extras}) == len(report.extras)
    return whole and bool(report.node) and report.lease_s > 0


def _hear_heartbeat(draft: Draft, report: Heartbeat) -> None:
    if _current(draft, report.node, report.incarnation) is None:
        draft.answers.append(Answer(report.node, report.incarnation, registered=False))


def _hear_drain(draft: Draft, report: DrainNode) -> None:
    node = _current(draft, report.node, report.incarnation)
    if node is not None and not node.draining:
        draft.emit(NodesDraining([node.no], [report.reason]))


def _hear_tasks(draft: Draft, heard: _Heard, offset: int, report: TasksReported) -> None:
    node = _current(draft, report.node, report.incarnation)
    columns = (
        report.job_nos,
        report.attempts,
        report.tasks,
        report.states,
        report.exit_codes,
        report.failures,
        report.messages,
        report.endpoints,
    )
    count = len(report.job_nos)
    if node is None or len({len(column) for column in columns}) != 1:
        code = "old_incarnation" if node is None else "malformed"
        heard.refused.append((offset, report.node, report.incarnation, code, count))
        if node is None:
            draft.answers.append(Answer(report.node, report.incarnation, registered=False))
        return
    strangers = 0
    for row in range(count):
        strangers += not _hear_row(draft, heard, node, (report, row))
    if strangers:
        refused = (offset, report.node, report.incarnation, "other_attempt", strangers)
        heard.refused.append(refused)


def _hear_row(draft: Draft, heard: _Heard, node: Node, what: tuple[TasksReported, int]) -> bool:
    """Note one row; False if it is about nothing that this incarnation holds. Repeats are fine."""
    report, row = what
    key = (report.job_nos[row], report.attempts[row], report.tasks[row])
    task = _task(draft, node, key)
    if task is None:
        return False
    phase = heard.phases.get(key, task.phase)
    said = report.states[row]
    if said is TaskState.READY and phase < TaskPhase.READY:
        heard.phases[key] = TaskPhase.READY
        heard.ready.append((key, report.endpoints[row]))
    elif said is TaskState.STARTED and phase < TaskPhase.STARTED:
        heard.phases[key] = TaskPhase.STARTED
        heard.started.append(key)
    elif said is TaskState.ENDED and phase < TaskPhase.ENDED:
        heard.phases[key] = TaskPhase.ENDED
        message = plain_text(report.messages[row], MESSAGE_MAX)
        heard.ended.append((key, report.exit_codes[row], report.failures[row], message))
    return True


def _task(draft: Draft, node: Node, key: _Row) -> Task | None:
    no, attempt, index = key
    job: Job | None = draft.state.jobs.get(no)
    if job is None or job.attempt != attempt:
        return None
    task = job.tasks.get(index)
    return task if task is not None and task.node_no == node.no else None


def _flush(draft: Draft, heard: _Heard) -> _Heard:
    """Emit what was gathered; answers an empty gathering to go on with."""
    for keys in ([key for key, _ in heard.ready], heard.started, [row[0] for row in heard.ended]):
        draft.touched.update((key[0], None) for key in keys)
    if heard.ready:
        nos, attempts, tasks = _columns([key for key, _ in heard.ready])
        draft.emit(TasksReady(nos, attempts, tasks, [endpoint for _, endpoint in heard.ready]))
    if heard.started:
        draft.emit(TasksStarted(*_columns(heard.started)))
    if heard.ended:
        nos, attempts, tasks = _columns([row[0] for row in heard.ended])
        draft.emit(
            TasksEnded(
                nos,
                attempts,
                tasks,
                [row[1] for row in heard.ended],
                [row[2] for row in heard.ended],
                [row[3] for row in heard.ended],
            )
        )
    if heard.refused:
        offsets, nodes, incarnations, codes, counts = zip(*heard.refused, strict=True)
        draft.emit(
            ReportsRefused(
                list(offsets), list(nodes), list(incarnations), list(codes), list(counts)
            )
        )
    return _Heard()


def _columns(keys: list[_Row]) -> tuple[list[int], list[int], list[int]]:
    return ([key[0] for key in keys], [key[1] for key in keys], [key[2] for key in keys])
