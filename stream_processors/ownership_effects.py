"""What an `Ownership` answers with: sends and reads for its driver, and signals for the engine.

Plain values, to be done in the order in which they come. `ownership.py` makes them,
`shard_driver.py` does the first two and hands the others to the engine.
"""

from __future__ import annotations

from dataclasses import dataclass

from schemas.envelope import Claim, Decision
from stream_processors.domain.counting import Chain


@dataclass(frozen=True, slots=True)
class Append:
    """Send these bytes; report the outcome under `token`."""

    token: int
    value: bytes


@dataclass(frozen=True, slots=True)
class Read:
    """Ask for the log's end, read there from `offset`, and report it. Replaces an earlier `Read`."""

    offset: int


@dataclass(frozen=True, slots=True)
class Counted:
    """This record counts; they come in log order, each once.

    With a `token`, it is a decision of ours whose events the optimistic state already holds: run
    its effects. Otherwise fold it; where `own` is set, run its effects too. `chain` is the log's
    chain after it.
    """

    offset: int
    record: Claim | Decision
    own: bool
    token: int | None
    chain: Chain


@dataclass(frozen=True, slots=True)
class Discard:
    """What was decided but did not count is void: fold anew up to `chain`, drop its effects."""

    chain: Chain


@dataclass(frozen=True, slots=True)
class Owning:
    """May decide from here: everything up to `chain` is known; seek inputs to its `consumed`."""

    epoch: int
    chain: Chain


@dataclass(frozen=True, slots=True)
class SteppedDown:
    """Decide nothing more until `Owning`; go on folding what counts."""

    reason: str


Signal = Counted | Discard | Owning | SteppedDown
Effect = Append | Read | Signal
