"""Kafka, PostgreSQL and Valkey on this machine, from packages: what `foldline dev` stands on.

`stack.py` is the whole of it, `process.py` what one server's process is, `kafka_server.py`,
`postgres_server.py` and `valkey_server.py` how each is set up, `jars.py` where Kafka comes from.
Everything listens on loopback and lives in one data directory. For Linux on x86-64 with glibc
2.28 or newer, where all the packages have wheels; elsewhere point the settings at your servers.
"""
