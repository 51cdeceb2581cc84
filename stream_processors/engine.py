"""The engine of one shard, without I/O: inputs and signals in, decisions and effects out.

Holds the optimistic state: what has counted plus what is decided and in flight. `ownership.py`
says which decisions count (`Counted`) and when they are void (`Discard`); this machine folds,
decides batches while the last one is in flight, and lets mail go only once its record counted.
`engine_process.py` does the I/O around it; the rules are in `domain/`.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from infra.follow import ShardFollower, decode_events
from infra.state_codec import Snapshot, decode_snapshot, encode_snapshot
from schemas.codec import encode_event
from schemas.commands import SubmitJobs
from schemas.dispatch import Dispatch
from schemas.envelope import Claim, Consumed, EncodedEvent, Input
from schemas.events import NodeRegistered, NodesLost
from schemas.reports import Heartbeat, Probe
from schemas.terms import Micros
from stream_processors.domain.counting import Positions
from stream_processors.domain.decide import Decided, decide, has_work
from stream_processors.domain.draft import CommandAt, Inputs, Policy, Report
from stream_processors.domain.effects import dispatches, resend
from stream_processors.domain.evolve import begin_record, evolve
from stream_processors.domain.state import State, initial_state
from stream_processors.leases import DEFAULT_LEASES, LeaseRules, Leases
from stream_processors.log_clock import Reading
from stream_processors.ownership_effects import Counted, Discard, Owning, SteppedDown

Signal = Counted | Discard | Owning | SteppedDown
T = TypeVar("T")
ROW_BYTES = 400
"""What a row of a command adds to a decision at most, beyond its own bytes: a name, a refusal."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What the operator set. Bounds keep a decision below the log's record limit."""

    policy: Policy
    leases: LeaseRules = DEFAULT_LEASES
    batch_records: int = 500
    batch_bytes: int = 2 * 1024 * 1024
    resend_after_us: int = 3_000_000
    progress_after_us: int = 5_000_000
    snapshot_records: int = 20_000
    snapshot_after_us: int = 60_000_000


@dataclass(frozen=True, slots=True)
class SendMail:
    """Tell these nodes: what it rests on has counted."""

    mail: tuple[Dispatch, ...]


@dataclass(frozen=True, slots=True)
class SeekInputs:
    """Read the inputs from `read_positions` on; what was read before is void."""


@dataclass(frozen=True, slots=True)
class Refold:
    """Feed `refolded` the log's entries `start <= offset < stop` before any further signal."""

    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class SendProbe:
    """Write this into the shard's own reports partition."""

    probe: Probe


@dataclass(frozen=True, slots=True)
class SaveSnapshot:
    """Store this snapshot of counted state."""

    snapshot: Snapshot
    data: bytes


Effect = SendMail | SeekInputs | Refold | SendProbe | SaveSnapshot


@dataclass(frozen=True, slots=True)
class Batch:
    """A decision to be appended."""

    at: Micros
    events: tuple[EncodedEvent, ...]
    consumed: tuple[Consumed, ...]
    mail: tuple[Dispatch, ...]


@dataclass(slots=True)
class _Inbox(Generic[T]):
    """Records of one input that were read and not yet decided; `next` is the first not read."""

    next: int = 0
    decided: int = 0
    waiting: deque[tuple[int, int, T]] = field(default_factory=deque)

    def reset(self, position: int) -> None:
        """Begin at a position; what was read is void."""
        self.next = self.decided = position
        self.waiting.clear()

    def take(self, records: int, size: int) -> tuple[T, ...]:
        """Up to so many records and bytes, at least one if there is one."""
        taken: list[T] = []
        while self.waiting and len(taken) < records:
            _, length, message = self.waiting[0]
            size -= length
            if size < 0 and taken:
                break
            taken.append(message)
            self.waiting.popleft()
        return tuple(taken)

    def consume(self, kind: Input) -> Consumed | None:
        """From where the last decision stopped to the next record not taken."""
        stop = self.waiting[0][0] if self.waiting else self.next
        if stop == self.decided:
            return None
        start, self.decided = self.decided, stop
        return Consumed(kind, start, stop)


class ShardEngine:
    """One shard's engine. `is_ready` while it may decide."""

    def __init__(
        self,
        shard: int,
        owner: bytes,
        options: EngineOptions,
        snapshot: tuple[Snapshot, bytes] | None = None,
    ) -> None:
        """From a snapshot that is anchored in the log, or from the log's beginning."""
        self.shard = shard
        self.owner = owner
        self.options = options
        self.state: State = snapshot[0].state if snapshot else initial_state(shard)
        self.is_ready = False
        self.epoch = 0
        self.leases = Leases(options.leases)
        self._restore_from = snapshot[1] if snapshot else None
        self._commands: _Inbox[CommandAt] = _Inbox()
        self._reports: _Inbox[tuple[int, Report]] = _Inbox()
        self._mail: dict[int, tuple[Dispatch, ...]] = {}
        self._refolding: ShardFollower | None = None
        self._said_us = 0
        self._resent_us = 0
        self._resend_below = 0
        self._saved_us = 0
        self._saved_seq = self.state.seq

    # What the log says.

    def handle(self, signal: Signal, now: Reading) -> list[Effect]:
        """One signal of the shard's ownership, in order. Effects must be done before the next."""
        if isinstance(signal, Counted):
            return self._counted(signal)
        if isinstance(signal, Owning):
            return self._begin(signal, now)
        if isinstance(signal, Discard):
            return self._discard(signal)
        self._step_down()
        return [SeekInputs()]

    def _step_down(self) -> None:
        """Decide nothing more; what was read and not decided is for the next owner."""
        self.is_ready = False
        self._commands.reset(0)
        self._reports.reset(0)

    def _counted(self, signal: Counted) -> list[Effect]:
        if isinstance(signal.record, Claim):
            return []
        if signal.token is not None:
            mail = self._mail.pop(signal.token)
            return [SendMail(mail)] if mail else []
        record = signal.record
        events = decode_events(record, signal.offset)
        begin_record(self.state, record.seq, record.at)
        for event in events:
            evolve(self.state, event)
        if not signal.own:
            return []
        mail = tuple(dispatches(self.state, Decided(events, ()), record.epoch))
        return [SendMail(mail)] if mail else []

    def _discard(self, signal: Discard) -> list[Effect]:
        """Fold anew: state is changed in place, so from the last snapshot on."""
        self._mail.clear()
        self._step_down()
        snapshot = decode_snapshot(self._restore_from) if self._restore_from else None
        self._refolding = ShardFollower(self.shard, snapshot)
        start, stop = self._refolding.chain.next_offset, signal.chain.next_offset
        return [Refold(start, stop)]

    def refolded(self, follower: ShardFollower) -> None:
        """The fold that `Refold` asked for is complete."""
        assert follower is self._refolding, "one refold at a time"
        self.state = follower.state
        self._refolding = None

    @property
    def refolding(self) -> ShardFollower:
        """What `Refold` must be fed to."""
        assert self._refolding is not None, "nothing is being folded anew"
        return self._refolding

    def _begin(self, signal: Owning, now: Reading) -> list[Effect]:
        """From here this process decides: leases count from now, what is open is sent again."""
        assert self._refolding is None, "fold first"
        assert self.state.seq == signal.chain.seq, "all that counted is folded"
        self.is_ready = True
        self.epoch = signal.epoch
        self._mail.clear()
        positions = signal.chain.consumed
        self._commands.reset(positions.commands)
        self._reports.reset(positions.reports)
        self.leases.restart()
        self._watch(now)
        self._said_us = self._resent_us = self._saved_us = now.monotonic_us
        self._resend_below = self.state.seq + 1
        mail = tuple(resend(self.state, self.epoch, self._resend_below))
        return [SeekInputs(), *([SendMail(mail)] if mail else [])]

    # What the inputs say.

    def receive_command(self, received: CommandAt, size: int) -> None:
        """One record of the commands partition, in order; `size` in bytes."""
        if self.is_ready and received.offset >= self._commands.next:
            self._commands.next = received.offset + 1
            command = received.command
            rows = len(command.terms_of) if isinstance(command, SubmitJobs) else 1
            weight = size + rows * ROW_BYTES
            self._commands.waiting.append((received.offset, weight, received))

    def receive_report(self, offset: int, size: int, report: Report, now: Reading) -> None:
        """One record of the reports partition, in order; leases listen at once."""
        if not self.is_ready or offset < self._reports.next:
            return
        self._reports.next = offset + 1
        if isinstance(report, Heartbeat) and self._is_current(report):
            self.leases.heard((report.node, report.incarnation), now.monotonic_us)
        elif isinstance(report, Probe):
            if report.owner == self.owner and report.epoch == self.epoch:
                self.leases.probe_seen(report.nonce)
        else:
            self._reports.waiting.append((offset, size, (offset, report)))

    def _is_current(self, report: Heartbeat) -> bool:
        node_no = self.state.node_nos.get(report.node)
        return node_no is not None and self.state.nodes[node_no].incarnation == report.incarnation

    @property
    def read_positions(self) -> Positions:
        """The first records of the inputs that have not been read."""
        return Positions(self._commands.next, self._reports.next)

    @property
    def backlog(self) -> int:
        """Records read and not yet decided; a driver stops reading above a bound."""
        return len(self._commands.waiting) + len(self._reports.waiting)

    # Decisions.

    def wants_to_decide(self, log_time: Micros, now: Reading) -> bool:
        """Whether a decision now would say something."""
        if not self.is_ready:
            return False
        if self._commands.waiting or self._reports.waiting or self.leases.expired():
            return True
        moved = (
            self._commands.next > self._commands.decided
            or self._reports.next > self._reports.decided
        )
        if moved and now.monotonic_us - self._said_us > self.options.progress_after_us:
            return True
        return has_work(
            self.state, log_time, self.options.policy, fires_timers=self._fires_timers()
        )

    def _fires_timers(self) -> bool:
        """Timers wait for reports that came in time: from before this ownership, or not decided."""
        return self.leases.caught_up and not self._reports.waiting

    def decide(self, log_time: Micros, now: Reading) -> Batch:
        """Decide the next batch on the optimistic state; append it and call `sent`."""
        assert self.is_ready, "only the owner decides"
        bound, size = self.options.batch_records, self.options.batch_bytes
        commands = self._commands.take(bound, size)
        reports = self._reports.take(bound, size)
        inputs = Inputs(commands, reports, self.leases.expired(), self._fires_timers())
        at = max(log_time, self.state.at)
        decided = decide(self.state, inputs, at, self.options.policy)
        parts = (self._commands.consume(Input.COMMANDS), self._reports.consume(Input.REPORTS))
        self._said_us = now.monotonic_us
        if any(isinstance(event, NodeRegistered | NodesLost) for event in decided.events):
            self._watch(now)
        return Batch(
            Micros(at),
            tuple(map(encode_event, decided.events)),
            tuple(part for part in parts if part is not None),
            tuple(dispatches(self.state, decided, self.epoch)),
        )

    def sent(self, token: int, batch: Batch) -> None:
        """The batch is in flight under this token: its mail waits until it counts."""
        self._mail[token] = batch.mail

    def _watch(self, now: Reading) -> None:
        held = set()
        for node in self.state.nodes.values():
            incarnation = (node.name, node.incarnation)
            held.add(incarnation)
            self.leases.watch(incarnation, node.no, node.lease_s, now.monotonic_us)
        self.leases.keep(held)

    # Time.

    def tick(self, now: Reading, in_flight: int) -> list[Effect]:
        """What time asks for: probes and repeated mail."""
        if not self.is_ready:
            return []
        effects: list[Effect] = []
        nonce = self.leases.due_probe(now.monotonic_us)
        if nonce is not None:
            effects.append(SendProbe(Probe(self.shard, self.epoch, self.owner, nonce)))
        # Only counted state may speak, so repeated mail waits until nothing is in flight.
        if in_flight == 0 and now.monotonic_us - self._resent_us > self.options.resend_after_us:
            self._resent_us = now.monotonic_us
            mail = tuple(resend(self.state, self.epoch, self._resend_below))
            self._resend_below = self.state.seq + 1
            effects += [SendMail(mail)] if mail else []
        return effects

    def snapshot_is_due(self, now: Reading) -> bool:
        """Whether the next decision should wait until nothing is in flight, for a snapshot."""
        records = self.state.seq - self._saved_seq
        late = now.monotonic_us - self._saved_us > self.options.snapshot_after_us
        return self.is_ready and (
            records >= self.options.snapshot_records or (late and records > 0)
        )

    def snapshot(self, counted: Counted, now: Reading) -> SaveSnapshot:
        """The state right after this decision, with nothing in flight."""
        assert counted.chain.seq == self.state.seq, "snapshots are of counted state only"
        snapshot = Snapshot(counted.offset, counted.chain, self.state)
        self._restore_from = encode_snapshot(snapshot)
        self._saved_us = now.monotonic_us
        self._saved_seq = self.state.seq
        return SaveSnapshot(snapshot, self._restore_from)
