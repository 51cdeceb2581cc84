"""Triage of dead letters at the edge: counted by what they look like, redriven by rules, or left.

Start with `triage.py` (what is decided, pure), then `process.py` (the process) and `faust_app.py`
(the shell that reads the topic). At-least-once is enough here: a redrive that is asked twice is
the same job. Nothing that schedules depends on this room.
"""
