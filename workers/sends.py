"""Reports on their way to Kafka: what is in flight, what may be sent again and when. Pure.

Also the agent's own words about its node. Used by `agent.py` only.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.reports import DrainNode, Heartbeat, RegisterNode, TasksReported
from schemas.terms import Micros
from workers.messages import Moment, Send
from workers.options import AgentOptions

FAR_NS = 1 << 62
"""Later than any moment of the boot clock."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A send that is not yet acknowledged."""

    kind: type
    incarnation: int
    sent_ns: int


class Sends:
    """Sends by number; moments are nanoseconds of the boot clock."""

    def __init__(self) -> None:
        self._flights: dict[int, Flight] = {}
        self._not_before: dict[type, int] = {}
        self._next_ref = 0

    def launch(
        self,
        message: RegisterNode | Heartbeat | DrainNode | TasksReported,
        incarnation: int,
        now_ns: int,
    ) -> Send:
        """The effect that sends this."""
        ref, self._next_ref = self._next_ref, self._next_ref + 1
        self._flights[ref] = Flight(type(message), incarnation, now_ns)
        return Send(ref, message)

    def land(self, ref: int) -> Flight:
        """The send is over, acknowledged or not."""
        return self._flights.pop(ref)

    def pause(self, kind: type, until_ns: int) -> None:
        """Send no more of these before that moment."""
        self._not_before[kind] = until_ns

    def due_ns(self, kind: type) -> int:
        """When one of these may be sent next: not while one is in flight."""
        if any(flight.kind is kind for flight in self._flights.values()):
            return FAR_NS
        return self._not_before.get(kind, 0)


def registration(options: AgentOptions, incarnation: int, now: Moment) -> RegisterNode:
    """The node offers itself."""
    return RegisterNode(
        node=options.node,
        pool=options.pool,
        incarnation=incarnation,
        address=options.address,
        cpu_milli=options.cpu_milli,
        memory_mib=options.memory_mib,
        gpus=options.gpus,
        extras=options.extras,
        labels=options.labels,
        lease_s=options.lease_s,
        sent_at=Micros(now.wall_us),
    )


def heartbeat(options: AgentOptions, incarnation: int, running: int, now: Moment) -> Heartbeat:
    """The node lives."""
    return Heartbeat(options.node, options.pool, incarnation, running, Micros(now.wall_us))


def farewell(options: AgentOptions, incarnation: int, now: Moment) -> DrainNode:
    """The node takes nothing new."""
    return DrainNode(options.node, options.pool, incarnation, "asked to leave", Micros(now.wall_us))
