"""A shard whose facts are told as the relay tells them, for tests of what is said."""

from __future__ import annotations

from projections.relay_facts import Fact, JobFacts
from schemas.public import JobEvent
from schemas.terms import JobState
from stream_processors.domain.state import initial_state
from tests.cluster import uid
from tests.view_shard import ViewShard


class Told:
    """Everything that a relay from the log's beginning says of a shard."""

    def __init__(self, shard: ViewShard) -> None:
        self.shard = shard
        self.machine = JobFacts(initial_state(0))
        self.machine._state = shard.state
        self.facts: list[Fact] = []

    def listen(self) -> list[Fact]:
        records, self.shard.records = self.shard.records, []
        new = [fact for record in records for fact in self.machine.take(record)]
        self.facts += new
        return new

    def states(self, key: str) -> list[JobState]:
        return [event.state for event in self.events(key)]

    def events(self, key: str) -> list[JobEvent]:
        found = [fact.message for fact in self.facts if fact.key == uid(key)]
        return [message for message in found if isinstance(message, JobEvent)]
