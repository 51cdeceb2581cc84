"""The words every room uses: commands, reports, events, topics and how they become bytes.

Imports nothing of ours. Start with `events.py` (what has happened), then `commands.py` (what may
be asked) and `reports.py` (what workers say); `envelope.py` is the frozen frame of the shard log.
"""
