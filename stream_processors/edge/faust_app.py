"""The Faust application that reads dead letters, one after the other. The only file that imports faust.

A thin shell around a handler: bytes in, nothing out. One agent with one letter at a time, so that
acknowledgements stay in order; no table, no exactly-once, no web server. What was handled is
committed to the group's offsets; what was not comes again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import faust

from schemas.topics import DEAD_LETTERS

GROUP = "foldline-edge-triage"
COMMIT_EVERY_S = 1.0
SESSION_S = 10.0
"""A process that was killed is missed for so long; until then its successor gets no letters."""

Handle = Callable[[bytes], Awaitable[None]]


class TriageApp:
    """The application, from `start` to `stop`, on the running event loop."""

    def __init__(self, bootstrap: str, handle: Handle) -> None:
        """`handle` gets each record's value in order."""
        self._app = faust.App(
            GROUP,
            broker=[f"kafka://{address}" for address in bootstrap.split(",")],
            autodiscover=False,
            broker_commit_interval=COMMIT_EVERY_S,
            broker_session_timeout=SESSION_S,
            consumer_auto_offset_reset="earliest",
            processing_guarantee="at_least_once",
            stream_wait_empty=False,
            store="memory://",
            topic_allow_declare=False,
            topic_disable_leader=True,
            value_serializer="raw",
            web_enabled=False,
        )
        topic = self._app.topic(DEAD_LETTERS.name, value_type=bytes, value_serializer="raw")

        async def letters(stream: faust.StreamT[bytes]) -> None:
            async for value in stream:
                await handle(value)

        self._app.agent(topic, concurrency=1, name="letters")(letters)

    async def start(self) -> None:
        """Join the group and read; returns once the group has taken it in."""
        self._app.finalize()
        await self._app.start()

    async def stop(self) -> None:
        """Commit what was handled and leave the group."""
        await self._app.stop()

    @property
    def failure(self) -> BaseException | None:
        """What has stopped the application from within, if anything."""
        return self._app.crash_reason if self._app.crashed else None
