"""Seeds that once found something, each with what it found. All of them are run by every test run.

A seed stands for one run only as long as nothing changes what is drawn; what it found is guarded
by the many other seeds as well.
"""

REGRESSIONS: dict[int, str] = {
    18: "a repeated registration renewed the agent's lease but not the engine's count of it",
    34: "the same, under other faults",
    47: "a task was let go by an agent that had been stopped until after its lease",
    71: "an engine that was stopped while it polled backdated the heartbeats that it read then",
    91: "a queue was paused by a command that came late, and nobody opened it",
    490: "a registration answered after a lease without acknowledgements began a lease anew",
    819: "a run was judged while a suspended host still held what it would kill as it wakes",
    1017: "a repeated registration, once more",
    2151: "a standby that came to own a shard took a mark for an input and left out what lay before",
    381: "a node whose registration was answered late was lost while its lease ran",
}
