"""What the views tell the writing half of the API of dead letters, and of how much is waiting.

Neither room imports the other; both are known here only. Reads the views, writes nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from time import monotonic

import structlog

from infra.http.letters import LetterFilters
from infra.settings import AdmissionSettings
from ingest.ports import (
    InputLetter,
    JobLetter,
    KnowledgeUnavailable,
    KnownLetter,
    LetterBatch,
    Overload,
)
from projections.dlq.queries import LetterPage, LetterQueries
from projections.dlq.reads import next_letter_cursor
from projections.hot_read import HotReader
from projections.job_answers import micros, terms_of_json
from projections.pipeline import ViewUnavailable
from projections.queries import Row
from stream_processors.domain.state import Load

LOADS_KEPT_S = 0.5
"""A shard's load is asked for so often at most, whatever is submitted."""
LOADS_S = 0.5
"""A submission waits no longer to learn of it."""

log = structlog.get_logger(__name__)


class ViewKnownLetters:
    """The `KnownLetters` of the writing half, on the audit view."""

    def __init__(self, queries: LetterQueries) -> None:
        """Owns no connection."""
        self._queries = queries

    async def find(self, ids: Sequence[str]) -> list[KnownLetter]:
        """These letters, as far as they are known."""
        try:
            seen = await self._queries.ones(ids)
        except ViewUnavailable as error:
            raise KnowledgeUnavailable(str(error)) from error
        return [_letter(row) for row in seen.value]

    async def choose(self, filters: LetterFilters, cursor: str | None, limit: int) -> LetterBatch:
        """At most `limit` letters that the filter chooses, the newest first."""
        page = LetterPage(filters, cursor, limit)
        try:
            rows = (await self._queries.whole_page(page)).value
            count = await self._queries.count(page)
        except ViewUnavailable as error:
            raise KnowledgeUnavailable(str(error)) from error
        letters = [_letter(row) for row in rows[:limit]]
        remaining = max(count - len(letters), 0)
        return LetterBatch(letters, remaining, next_letter_cursor(rows, limit))


class ViewAdmission:
    """The `Admission` of the writing half, on the loads that the hot view holds."""

    def __init__(self, hot: HotReader, limits: AdmissionSettings) -> None:
        """`limits` are those that the engines were told."""
        self._hot = hot
        self._limits = limits
        self._known: dict[tuple[int, str], tuple[float, Overload | None]] = {}

    async def overload(self, shard: int, tenant: str) -> Overload | None:
        """Why a shard takes on no more of a tenant; None too where the view cannot tell."""
        kept = self._known.get((shard, tenant))
        if kept is not None and monotonic() < kept[0]:
            return kept[1]
        try:
            asked = asyncio.to_thread(self._hot.loads, shard, tenant)
            reading = await asyncio.wait_for(asked, LOADS_S)
        except (ViewUnavailable, TimeoutError) as error:
            log.warning("load not checked before sending", reason=str(error) or "no answer")
            reading = None
        found = None if reading is None else self._judge(*reading.value, tenant)
        self._keep(shard, tenant, found)
        return found

    def _keep(self, shard: int, tenant: str, found: Overload | None) -> None:
        """Remember it for a moment; tenants that went quiet are forgotten."""
        now = monotonic()
        self._known = {key: value for key, value in self._known.items() if now < value[0]}
        self._known[shard, tenant] = (now + LOADS_KEPT_S, found)

    def _judge(self, everyone: Load, one: Load, tenant: str) -> Overload | None:
        limits = self._limits
        own = (limits.tenant_pending_jobs_max, limits.tenant_pending_bytes_max)
        if _is_over(one, own):
            text = f"tenant {tenant!r} has {_told(one)} that have not ended, of {_most(own)}"
            return Overload(is_tenants=True, message=f"{text}; wait for some to end")
        every = (limits.pending_jobs_max, limits.pending_bytes_max)
        if _is_over(everyone, every):
            text = f"{_told(everyone)} have not ended, of {_most(every)} that are taken on"
            return Overload(is_tenants=False, message=f"{text}; try again later")
        return None


def _is_over(load: Load, most: tuple[int, int]) -> bool:
    return 0 < most[0] <= load.jobs or 0 < most[1] <= load.spec_bytes


def _told(load: Load) -> str:
    return f"{load.jobs} jobs ({load.spec_bytes} bytes)"


def _most(most: tuple[int, int]) -> str:
    return f"at most {most[0]} ({most[1]} bytes)"


def _letter(row: Row) -> KnownLetter:
    what = _of_input(row) if row["kind"] == "input" else _of_job(row)
    return KnownLetter(row["letter_id"], row["shard"], micros(row["at"]), what)


def _of_job(row: Row) -> JobLetter:
    return JobLetter(
        terms=terms_of_json(row["terms"]),
        priority=row["priority"],
        key_id=row["key_id"],
        spec_schema_id=row["spec_schema_id"],
        spec=bytes(row["spec"]),
    )


def _of_input(row: Row) -> InputLetter:
    return InputLetter(
        input=row["input"]["input"],
        key=bytes(row["key"]),
        headers=[(name, bytes.fromhex(value)) for name, value in row["headers"]],
        size=row["input"]["size"],
        value=bytes(row["value"]),
    )
