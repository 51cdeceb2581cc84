"""The triage process: reads what it had handled, then goes on with every new letter, until told to stop.

Reads `foldline.jobs.dlq.v1`, writes `foldline.jobs.commands.v1` and metrics. One process of an
installation: of two, each would see half of a burst. Decisions are `triage.py`'s.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from time import time_ns

import structlog

from infra.edge_rules import EdgeRule
from infra.kafka import shard_count
from infra.kafka_port import KafkaUnavailable
from infra.settings import EdgeSettings, KafkaSettings
from infra.telemetry import count, gauge, gauges
from schemas.codec import MalformedRecord, UnknownSchema, decode
from schemas.public import DeadLetter, ParkedInput
from schemas.terms import FailureClass
from schemas.topics import DEAD_LETTERS
from stream_processors.domain.redrive import UNSET, Changes
from stream_processors.edge.faust_app import GROUP, TriageApp
from stream_processors.edge.redrives import RedriveSender, command_of
from stream_processors.edge.replay import handled_since
from stream_processors.edge.triage import Redrive, Rule, Triage, TriagePolicy, Verdict

LOG = structlog.get_logger("foldline.edge")
LOOK_S = 0.5
"""Between two looks at what is due."""
SHOWN_FINGERPRINTS = 10
SECOND_US = 1_000_000


def policy_of(settings: EdgeSettings) -> TriagePolicy:
    """The operator's settings as triage takes them."""
    return TriagePolicy(
        rules=tuple(map(_rule, settings.rules)),
        burst_letters=settings.burst_letters,
        burst_window_us=int(settings.burst_window_s * SECOND_US),
        circuit_us=int(settings.circuit_s * SECOND_US),
        act_within_us=int(settings.act_within_s * SECOND_US),
    )


def run_edge(kafka: KafkaSettings, settings: EdgeSettings, stop: Callable[[], bool]) -> int:
    """Triage until told to stop. Raises `KafkaUnavailable` where Kafka is not there at the start."""
    desk = TriageDesk(
        Triage(policy_of(settings)), RedriveSender(kafka.bootstrap, shard_count(kafka.bootstrap))
    )
    now = _now()
    places = [(DEAD_LETTERS.name, number) for number in range(DEAD_LETTERS.partitions)]
    since = now - int(settings.act_within_s * SECOND_US)
    for message in handled_since(kafka.bootstrap, GROUP, places, since):
        desk.take(message.value or b"", now)
    LOG.info("edge_opened", rules=len(settings.rules), waiting=desk.triage.waiting())
    try:
        with asyncio.Runner() as runner:
            runner.run(_serve(kafka.bootstrap, desk, stop))
    finally:
        desk.close()
    return 0


class TriageDesk:
    """Triage with its hands: takes the letters' bytes, sends what is due, shows figures."""

    def __init__(self, triage: Triage, sender: RedriveSender) -> None:
        """Closes the sender with itself."""
        self.triage = triage
        self._sender = sender

    def take(self, value: bytes, now: int) -> None:
        """One record of the topic; one that is no letter is noted and passed over."""
        try:
            letter = decode(value)
        except (MalformedRecord, UnknownSchema) as error:
            LOG.warning("edge_passed_over", reason=str(error))
            return
        assert isinstance(letter, DeadLetter | ParkedInput), "the topic holds letters alone"
        failure = letter.failure if isinstance(letter, DeadLetter) else FailureClass.POISON
        count("foldline_edge_letters_total", failure=failure.value)
        decision = self.triage.take(letter, now)
        if decision.verdict is not Verdict.REDRIVE:
            count(
                "foldline_edge_redrives_total",
                rule=decision.rule or "none",
                outcome=decision.verdict.value,
            )

    def due(self, now: int) -> list[Redrive]:
        """Redrives whose moment has come; those that a burst has stopped are given up."""
        found = self.triage.due(now)
        for redrive, verdict in found:
            if verdict is Verdict.CIRCUIT_OPEN:
                _note(redrive, verdict.value)
        return [redrive for redrive, verdict in found if verdict is Verdict.REDRIVE]

    def send(self, redrives: Sequence[Redrive]) -> Sequence[Redrive]:
        """Send them in turn; answers those that Kafka does not take now. May run in a thread."""
        for place, redrive in enumerate(redrives):
            command = command_of(redrive)
            if isinstance(command, str):
                _note(redrive, "impossible", command)
                continue
            try:
                self._sender.send(command)
            except KafkaUnavailable as error:
                LOG.warning("edge_waits", error=str(error))
                return redrives[place:]
            except ValueError as error:
                _note(redrive, "impossible", str(error))
            else:
                _note(redrive, "sent")
        return ()

    def show(self, now: int) -> None:
        """Figures, and a look at what can be forgotten."""
        self.triage.forget(now)
        counts = self.triage.counts(now)
        most = sorted(counts, key=lambda name: (-counts[name], name))[:SHOWN_FINGERPRINTS]
        gauges("foldline_edge_window_letters", {name: float(counts[name]) for name in most})
        gauges("foldline_edge_circuits_open", dict.fromkeys(self.triage.open_circuits(now), 1.0))
        gauge("foldline_edge_pending_redrives", self.triage.waiting())

    def close(self) -> None:
        """Let go of the broker."""
        self._sender.close()


def _note(redrive: Redrive, outcome: str, reason: str = "") -> None:
    count("foldline_edge_redrives_total", rule=redrive.rule.name, outcome=outcome)
    job, rule = redrive.letter.job_id, redrive.rule.name
    LOG.info("edge_redrive", job=job, rule=rule, outcome=outcome, reason=reason)


async def _serve(bootstrap: str, desk: TriageDesk, stop: Callable[[], bool]) -> None:
    """Handle letters as they come, and send what is due; what fails in here ends the process."""
    failures: list[Exception] = []

    async def handle(value: bytes) -> None:
        try:
            desk.take(value, _now())
        except Exception as error:
            failures.append(error)  # Faust would go on with the next letter
            raise

    app = TriageApp(bootstrap, handle)
    starting = asyncio.create_task(app.start())
    try:
        while not (stop() or failures or app.failure or _has_failed(starting)):
            unsent = await asyncio.to_thread(desk.send, desk.due(_now()))
            for redrive in unsent:
                desk.triage.put_back(redrive)
            desk.show(_now())
            await asyncio.sleep(LOOK_S)
    finally:
        starting.cancel()
        await app.stop()
    if failures:
        raise failures[0]
    if app.failure or _has_failed(starting):
        raise KafkaUnavailable(f"the consumer has stopped: {app.failure or starting.exception()}")


def _has_failed(task: asyncio.Task[None]) -> bool:
    return task.done() and not task.cancelled() and task.exception() is not None


def _rule(rule: EdgeRule) -> Rule:
    factor, retries = rule.memory_factor, rule.max_retries
    return Rule(
        name=rule.name,
        failures=tuple(map(FailureClass, rule.failure)),
        fingerprint=rule.fingerprint,
        tenant=rule.tenant,
        cluster=rule.cluster,
        queue=rule.queue,
        delay_us=int(rule.delay_s * SECOND_US),
        max_times=rule.max_times,
        changes=Changes(
            memory_factor_milli=UNSET if factor is None else round(factor * 1000),
            max_retries=UNSET if retries is None else retries,
            image=rule.image,
            queue=rule.to_queue,
        ),
    )


def _now() -> int:
    return time_ns() // 1000
