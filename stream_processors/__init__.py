"""What turns the log into decisions: the pure core, and the machines that own a shard.

`domain/` decides and folds, without I/O. `ownership.py` says who may write a shard's log and what
of it counts; `shard_driver.py` does its I/O. Start with `domain/counting.py`.
"""
