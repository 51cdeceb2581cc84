"""The hands: node agents take dispatches, run tasks under a lease, and report. They never decide.

Read `agent.py` (the state machine), `ledger.py` and `lease.py` (its rules), `executor.py` (the port
that runs tasks), `process_executor.py` with `supervisor.py` (local processes), `driver.py` (I/O).
`chronicle.py` says what ran here and when; users' programs need `progress.py` alone.
"""
