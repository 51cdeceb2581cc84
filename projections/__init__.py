"""Views: everything that is read of jobs, queues and nodes, each of them rebuilt from the log at will.

`pipeline.py` is the one way that all of them go; audit (Postgres), hot (Redis) and the relay (public
topics) are what it leads to. Knows the log's reader, the fold and the words; never the engine.
"""
