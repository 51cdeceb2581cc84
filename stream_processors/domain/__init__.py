"""The core: pure functions over plain data, standard library only, no I/O, no clock, no chance.

`counting.py` says which records of a shard's log count; `state.py` and `evolve.py` fold them;
`decide.py` makes new ones. Every room above may import this one; it imports only `schemas`.
"""
