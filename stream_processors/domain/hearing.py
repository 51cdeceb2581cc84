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
from schemas.terms import Extra, FailureClass, Label, TaskState
from stream_processors.domain.draft import Answer, Draft, Report, Unreadable
from stream_processors.domain.limits import (
    AMOUNT_MAX,
    NAMES_MAX,
    TEXT_MAX,
    TEXT_NAME_MAX,
    plain_text,
    text_problem,
)
from stream_processors.domain.state import Job, Node, Task, TaskPhase

MESSAGE_MAX = 2_000
TAIL_MAX = 4_000
ENDPOINT_MAX = 300
GPUS_MAX = 255
INCARNATION_MAX = 1 << 56
"""Far above any clock's microseconds, and far below where the next one could not be counted."""
LEASE_MAX_S = 86_400
EXIT_CODE_MAX = (1 << 31) - 1
NODE_NAME_MAX = 128
"""Bytes of a node's name: it stands in a row for each task that a lost node held."""
NODE_NAMES_MAX = 100_000
"""Names of nodes that a shard ever knew. Their incarnations are kept for ever: a late duplicate
must not bring a dead one back."""
STRANGERS_MAX = 50
"""Answers of one decision to names that were never registered: each is a record of its own."""
LOST_MAX = 100
"""Nodes lost by one decision at most; the next one goes on."""

_Row = tuple[int, int, int]


@dataclass(slots=True)
class _Heard:
    """Accepted rows not yet emitted, and how far each task has come with them."""

    ready: list[tuple[_Row, str]] = field(default_factory=list)
    started: list[_Row] = field(default_factory=list)
    ended: list[tuple[_Row, int, FailureClass, str, str]] = field(default_factory=list)
    phases: dict[_Row, TaskPhase] = field(default_factory=dict)
    refused: list[tuple[int, str, int, str, int]] = field(default_factory=list)
    strangers: set[str] = field(default_factory=set)


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
            _hear_heartbeat(draft, heard, report)
        elif isinstance(report, DrainNode):
            heard = _flush(draft, heard)
            _hear_drain(draft, report)
        elif isinstance(report, Unreadable):
            heard.refused.append((offset, "", 0, plain_text(report.code, NODE_NAME_MAX), 1))
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


def _said_to_be(report: RegisterNode | TasksReported) -> tuple[str, int]:
    """Who sent a report that is refused, as every view can hold it."""
    incarnation = max(0, min(report.incarnation, INCARNATION_MAX))
    return plain_text(report.node, NODE_NAME_MAX), incarnation


def _tell(draft: Draft, heard: _Heard, node: str, incarnation: int) -> None:
    """Answer "register again"; names that nobody knows get few answers, and no long ones any."""
    if node not in draft.state.incarnations:
        if len(heard.strangers) >= STRANGERS_MAX or not _is_name(node):
            return
        heard.strangers.add(node)
    draft.answers.append(Answer(node, incarnation, registered=False))


def _is_name(node: str) -> bool:
    return 0 < len(node.encode()) <= NODE_NAME_MAX and "\0" not in node


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
        _tell(draft, heard, report.node, report.incarnation)
    elif not _is_sound(report):
        code = "malformed"
    elif report.node not in state.incarnations and len(state.incarnations) >= NODE_NAMES_MAX:
        code = "too_many_nodes"
    if code:
        heard.refused.append((offset, *_said_to_be(report), code, 1))
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
    """Whether the fold and every view can hold what the node says of itself."""
    amounts = [report.cpu_milli, report.memory_mib, *(extra.amount for extra in report.extras)]
    amounts += [number for gpu in report.gpus for number in (gpu.memory_mib, gpu.island)]
    whole = all(0 <= amount <= AMOUNT_MAX for amount in amounts) and len(report.gpus) <= GPUS_MAX
    named: tuple[tuple[Extra | Label, ...], ...] = (report.extras, report.labels)
    for names in ([one.name for one in some] for some in named):
        whole = whole and all(names) and len(set(names)) == len(names)
    whole = whole and len(report.extras) + len(report.labels) <= NAMES_MAX
    texts = [report.node, report.address, *(extra.name for extra in report.extras)]
    texts += [text for label in report.labels for text in (label.name, label.value)]
    texts += [gpu.model for gpu in report.gpus]
    whole = whole and not any(text_problem(text, TEXT_NAME_MAX) for text in texts)
    whole = whole and 0 <= report.incarnation <= INCARNATION_MAX
    return whole and _is_name(report.node) and 0 < report.lease_s <= LEASE_MAX_S


def _hear_heartbeat(draft: Draft, heard: _Heard, report: Heartbeat) -> None:
    if _current(draft, report.node, report.incarnation) is None:
        _tell(draft, heard, report.node, report.incarnation)


def _hear_drain(draft: Draft, report: DrainNode) -> None:
    node = _current(draft, report.node, report.incarnation)
    if node is not None and not node.draining:
        draft.emit(NodesDraining([node.no], [plain_text(report.reason, TEXT_MAX)]))


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
    is_square = len({len(column) for column in columns}) == 1
    if node is None or not is_square or len(report.tail_rows) != len(report.tails):
        code = "old_incarnation" if node is None else "malformed"
        heard.refused.append((offset, *_said_to_be(report), code, count))
        if node is None:
            _tell(draft, heard, report.node, report.incarnation)
        return
    strangers = 0
    tails = dict(zip(report.tail_rows, report.tails, strict=True))
    for row in range(count):
        strangers += not _hear_row(draft, heard, node, (report, row, tails))
    if strangers:
        refused = (offset, *_said_to_be(report), "other_attempt", strangers)
        heard.refused.append(refused)


def _known(failure: FailureClass) -> FailureClass:
    """A class that a newer agent knows and we do not is its machine's trouble, as far as we know."""
    return FailureClass.INFRASTRUCTURE if failure is FailureClass.UNKNOWN else failure


def _hear_row(
    draft: Draft, heard: _Heard, node: Node, what: tuple[TasksReported, int, dict[int, str]]
) -> bool:
    """Note one row; False if it is about nothing that this incarnation holds. Repeats are fine."""
    report, row, tails = what
    key = (report.job_nos[row], report.attempts[row], report.tasks[row])
    task = _task(draft, node, key)
    if task is None:
        return False
    phase = heard.phases.get(key, task.phase)
    said = report.states[row]
    if said is TaskState.READY and phase < TaskPhase.READY:
        heard.phases[key] = TaskPhase.READY
        heard.ready.append((key, plain_text(report.endpoints[row], ENDPOINT_MAX)))
    elif said is TaskState.STARTED and phase < TaskPhase.STARTED:
        heard.phases[key] = TaskPhase.STARTED
        heard.started.append(key)
    elif said is TaskState.ENDED and phase < TaskPhase.ENDED:
        heard.phases[key] = TaskPhase.ENDED
        message = plain_text(report.messages[row], MESSAGE_MAX)
        exit_code = max(-EXIT_CODE_MAX, min(report.exit_codes[row], EXIT_CODE_MAX))
        tail = plain_text(tails.get(row, ""), TAIL_MAX)
        heard.ended.append((key, exit_code, _known(report.failures[row]), message, tail))
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
                [number for number, row in enumerate(heard.ended) if row[4]],
                [row[4] for row in heard.ended if row[4]],
            )
        )
    if heard.refused:
        offsets, nodes, incarnations, codes, counts = zip(*heard.refused, strict=True)
        draft.emit(
            ReportsRefused(
                list(offsets), list(nodes), list(incarnations), list(codes), list(counts)
            )
        )
    return _Heard(strangers=heard.strangers)


def _columns(keys: list[_Row]) -> tuple[list[int], list[int], list[int]]:
    return ([key[0] for key in keys], [key[1] for key in keys], [key[2] for key in keys])
