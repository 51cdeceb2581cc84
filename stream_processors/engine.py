"""The engine of one shard, without I/O: inputs and signals in, decisions and effects out.

Holds the optimistic state: what has counted plus what is decided and in flight. `ownership.py`
says which decisions count (`Counted`) and when they are void (`Discard`); this machine folds,
decides batches while the last one is in flight, and lets mail go only once its record counted.
`engine_process.py` does the I/O around it; the rules are in `domain/`.
"""

from __future__ import annotations

from dataclasses import dataclass

from infra.follow import ShardFollower, decode_events, fold_record
from infra.state_codec import Snapshot
from schemas.codec import encode_event
from schemas.dispatch import Dispatch
from schemas.envelope import Claim, Consumed, EncodedEvent, Input
from schemas.events import NodeRegistered, NodesLost
from schemas.reports import Heartbeat, Probe, RegisterNode
from schemas.terms import Micros
from stream_processors.domain.counting import Positions
from stream_processors.domain.decide import Decided, decide, has_work, unsettled_jobs
from stream_processors.domain.draft import CommandAt, Inputs, Policy, Report
from stream_processors.domain.effects import dispatches, resend
from stream_processors.domain.state import State, initial_state
from stream_processors.input_queue import InputQueue
from stream_processors.leases import DEFAULT_LEASES, LeaseRules, Leases
from stream_processors.log_clock import Reading
from stream_processors.ownership_effects import Counted, Discard, Owning, SteppedDown
from stream_processors.weights import command_weight, report_weight

Signal = Counted | Discard | Owning | SteppedDown
IDLE_PROGRESS_US = 300_000_000
"""An owner that hears nothing but its own marks says so seldom: the log is kept for ever."""
WORTH_BYTES = 4
"""Of log for each job of the fold: folding less than this anew costs less than a snapshot."""
SIGN = 0
"""The nonce of a mark that only says that its writer lives."""


@dataclass(frozen=True, slots=True)
class EngineOptions:
    """What the operator set. Bounds keep a decision below the log's record limit.

    A snapshot is due after so many records, or so many bytes of them, or so long a time.
    """

    policy: Policy
    leases: LeaseRules = DEFAULT_LEASES
    batch_records: int = 500
    batch_bytes: int = 2 * 1024 * 1024
    resend_after_us: int = 3_000_000
    progress_after_us: int = 5_000_000
    snapshot_records: int = 20_000
    snapshot_bytes: int = 48 * 1024 * 1024
    snapshot_after_us: int = 60_000_000
    sign_us: int = 500_000


@dataclass(frozen=True, slots=True)
class SendMail:
    """Tell these nodes: what it rests on has counted."""

    mail: tuple[Dispatch, ...]


@dataclass(frozen=True, slots=True)
class SeekInputs:
    """Read the inputs from `read_positions` on; what was read before is void."""


@dataclass(frozen=True, slots=True)
class Refold:
    """Fold the log up to record `seq`, below offset `stop`, and hand the fold to `refolded`.

    Before any further signal. State is changed in place, so this starts at a snapshot.
    """

    seq: int
    stop: int


@dataclass(frozen=True, slots=True)
class SendProbe:
    """Write this into the shard's own reports partition."""

    probe: Probe


@dataclass(frozen=True, slots=True)
class SaveSnapshot:
    """Store this snapshot of counted state, as it is now: the state goes on."""

    snapshot: Snapshot


Effect = SendMail | SeekInputs | Refold | SendProbe | SaveSnapshot


@dataclass(frozen=True, slots=True)
class Batch:
    """A decision to be appended."""

    at: Micros
    events: tuple[EncodedEvent, ...]
    consumed: tuple[Consumed, ...]
    mail: tuple[Dispatch, ...]


class ShardEngine:
    """One shard's engine. `is_ready` while it may decide."""

    def __init__(
        self,
        shard: int,
        owner: bytes,
        options: EngineOptions,
        snapshot: Snapshot | None = None,
    ) -> None:
        """From a snapshot that is anchored in the log, or from the log's beginning."""
        self.shard = shard
        self.owner = owner
        self.options = options
        self.state: State = snapshot.state if snapshot else initial_state(shard)
        self.is_ready = False
        self.epoch = 0
        self.leases = Leases(options.leases)
        self._commands: InputQueue[CommandAt] = InputQueue()
        self._reports: InputQueue[tuple[int, Report]] = InputQueue()
        self._mail: dict[int, tuple[Dispatch, ...]] = {}
        self._is_refolding = False
        self._unsettled: tuple[int, ...] = ()
        self._reports_first = False
        self._was_told = False
        self._said_us = 0
        self._signed_us = 0
        self._resent_us = 0
        self._resend_below = 0
        self._saved_us = 0
        self._saved_seq = self.state.seq
        self._unsaved_bytes = 0

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
        self._unsaved_bytes += sum(len(event.data) for event in signal.record.events)
        if signal.token is not None:
            mail = self._mail.pop(signal.token)
            return [SendMail(mail)] if mail else []
        record = signal.record
        events = decode_events(record, signal.offset)
        fold_record(self.state, (record, events), signal.offset)
        if not signal.own:
            return []
        mail = tuple(dispatches(self.state, Decided(events, ()), record.epoch))
        return [SendMail(mail)] if mail else []

    def _discard(self, signal: Discard) -> list[Effect]:
        """Fold anew what counts."""
        self._mail.clear()
        self._step_down()
        self._is_refolding = True
        return [Refold(signal.chain.seq, signal.chain.next_offset)]

    def refolded(self, follower: ShardFollower) -> None:
        """The fold that `Refold` asked for is complete."""
        assert self._is_refolding, "nothing is being folded anew"
        self.state = follower.state
        self._is_refolding = False

    def _begin(self, signal: Owning, now: Reading) -> list[Effect]:
        """From here this process decides: leases count from now, what is open is sent again."""
        assert not self._is_refolding, "fold first"
        assert self.state.seq == signal.chain.seq, "all that counted is folded"
        self.is_ready = True
        self.epoch = signal.epoch
        self._unsettled = unsettled_jobs(self.state)
        self._mail.clear()
        positions = signal.chain.consumed
        self._commands.reset(positions.commands)
        self._reports.reset(positions.reports)
        self.leases.restart()
        self._watch(now)
        self._said_us = self._resent_us = self._saved_us = self._signed_us = now.monotonic_us
        self._resend_below = self.state.seq + 1
        mail = tuple(resend(self.state, self.epoch, self._resend_below))
        return [SeekInputs(), *([SendMail(mail)] if mail else [])]

    # What the inputs say.

    def receive_command(self, received: CommandAt, size: int) -> None:
        """One record of the commands partition, in order; `size` in bytes."""
        if self.is_ready and received.offset >= self._commands.next:
            self._commands.next = received.offset + 1
            self._was_told = True
            weight = command_weight(size, received.command)
            self._commands.put(received.offset, weight, received)

    def receive_report(self, offset: int, size: int, report: Report, now: Reading) -> None:
        """One record of the reports partition, in order; leases listen at once.

        `now` must be read after the record was: a lease runs from when its holder sent, and one
        counted from before that would be over too early. What renews the agent's own lease, a
        repeated registration too, counts here.
        """
        if not self.is_ready or offset < self._reports.next:
            return
        self._reports.next = offset + 1
        self._was_told |= not (isinstance(report, Probe) and report.nonce == SIGN)
        if isinstance(report, Heartbeat | RegisterNode) and self._is_current(report):
            self.leases.heard((report.node, report.incarnation), now.monotonic_us)
            if isinstance(report, Heartbeat):
                return
        if isinstance(report, Probe):
            if report.owner == self.owner and report.epoch == self.epoch:
                self.leases.probe_seen(report.nonce)
        else:
            self._reports.put(offset, report_weight(size, report), (offset, report))

    def _is_current(self, report: Heartbeat | RegisterNode) -> bool:
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

    @property
    def backlog_bytes(self) -> int:
        """About what they weigh."""
        return self._commands.weight + self._reports.weight

    # Decisions.

    def wants_to_decide(self, log_time: Micros, now: Reading) -> bool:
        """Whether a decision now would say something."""
        if not self.is_ready:
            return False
        if self._commands.waiting or self._reports.waiting or self.leases.expired():
            return True
        if self._unsettled:
            return True
        moved = (
            self._commands.next > self._commands.decided
            or self._reports.next > self._reports.decided
        )
        pause_us = self.options.progress_after_us if self._was_told else IDLE_PROGRESS_US
        if moved and now.monotonic_us - self._said_us > pause_us:
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
        inputs = self._take()
        at = max(log_time, self.state.at)
        decided = decide(self.state, inputs, at, self.options.policy)
        self._unsettled = decided.unsettled
        parts = (self._commands.consume(Input.COMMANDS), self._reports.consume(Input.REPORTS))
        self._said_us = self._signed_us = now.monotonic_us
        self._was_told = False
        if any(isinstance(event, NodeRegistered | NodesLost) for event in decided.events):
            self._watch(now)
        return Batch(
            Micros(at),
            tuple(map(encode_event, decided.events)),
            tuple(part for part in parts if part is not None),
            tuple(dispatches(self.state, decided, self.epoch)),
        )

    def _take(self) -> Inputs:
        """Inputs for one record of the log: both in turn come first, and neither is starved.

        One that does not leave room for anything else is decided alone.
        """
        records, room = self.options.batch_records, self.options.batch_bytes
        share = room // 2 if self._commands.waiting and self._reports.waiting else room
        self._reports_first = not self._reports_first
        if self._reports_first:
            reports, used = self._reports.take(records, share)
            commands, more = self._commands.take(records, room - used, needed=not reports)
        else:
            commands, used = self._commands.take(records, share)
            reports, more = self._reports.take(records, room - used, needed=not commands)
        return Inputs(
            commands=commands,
            reports=reports,
            expired=self.leases.expired(),
            fires_timers=self._fires_timers(),
            unsettled=self._unsettled,
            fill_record=used + more > room,
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
        """What time asks for: probes, signs of life and repeated mail."""
        if not self.is_ready:
            return []
        effects: list[Effect] = []
        nonce = self.leases.due_probe(now.monotonic_us)
        if nonce is None and now.monotonic_us - self._signed_us >= self.options.sign_us:
            nonce = SIGN
        if nonce is not None:
            self._signed_us = now.monotonic_us
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
        if not self.is_ready:
            return False
        records, size = self.state.seq - self._saved_seq, self._unsaved_bytes
        if records >= self.options.snapshot_records or size >= self.options.snapshot_bytes:
            return True
        late = now.monotonic_us - self._saved_us > self.options.snapshot_after_us
        return late and records > 0 and size > WORTH_BYTES * len(self.state.jobs)

    def snapshot(self, counted: Counted, now: Reading) -> SaveSnapshot:
        """The state right after this decision, with nothing in flight."""
        assert counted.chain.seq == self.state.seq, "snapshots are of counted state only"
        self._saved_us = now.monotonic_us
        self._saved_seq = self.state.seq
        self._unsaved_bytes = 0
        return SaveSnapshot(Snapshot(counted.offset, counted.chain, self.state))
