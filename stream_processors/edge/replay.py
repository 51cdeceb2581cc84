"""Letters that were handled before this process began, read again to know what they told.

Triage keeps nothing but its group's offsets: counts, circuits and redrives that wait are made anew
from the letters of the time within which it acts. What was redriven then is asked again, which is
the same job.
"""

from __future__ import annotations

from collections.abc import Sequence

from infra.kafka import Reader, committed
from infra.kafka_port import KafkaUnavailable, Message, Place

POLL_S = 0.5
QUIET_POLLS = 60
"""So many empty polls in a row, and Kafka is said not to give what it has."""


def handled_since(bootstrap: str, group: str, places: Sequence[Place], since: int) -> list[Message]:
    """Records from a moment (UTC microseconds) up to where the group has committed, by their time.

    Raises `KafkaUnavailable`.
    """
    stops = {place: stop for place, stop in committed(bootstrap, group, places).items() if stop}
    reader = Reader(bootstrap)
    try:
        starts = {place: reader.offset_at(*place, since) for place in stops}
        wanted = {place: start for place, start in starts.items() if start < stops[place]}
        found = _read(reader, wanted, stops) if wanted else []
    finally:
        reader.close()
    return sorted(found, key=lambda message: (message.at, message.partition, message.offset))


def _read(reader: Reader, starts: dict[Place, int], stops: dict[Place, int]) -> list[Message]:
    reader.assign(starts)
    found: list[Message] = []
    quiet = 0
    while any(reader.position(*place) < stops[place] for place in starts):
        messages = reader.poll(POLL_S)
        quiet = 0 if messages else quiet + 1
        if quiet >= QUIET_POLLS:
            raise KafkaUnavailable("handled letters cannot be read again")
        found += [one for one in messages if one.offset < stops[one.topic, one.partition]]
    return found
