"""Commands on their way to Kafka, and what a caller is told when they do not arrive.

Raises `ApiError`s only. Nothing is sent that is over the limit, or while more is under way than
fits; without an acknowledgement in time the outcome is unknown, and the answer says so.
"""

from __future__ import annotations

import time

from infra.http.errors import ApiError
from infra.http.tokens import CommandPlace
from infra.telemetry import count
from ingest.app import Ingest
from ingest.ports import CommandNotAcknowledged, Outgoing, SinkOverloaded
from ingest.recent import RecentJob
from ingest.submit import Command, CommandTooLarge, Context, Prepared, outgoing
from schemas.terms import Micros

RETRY_AFTER_S = 1
OVERLOAD_RETRY_AFTER_S = 5
IDEMPOTENCY_KEY_HEADER = "Idempotency-Key"


def encoded(
    command: Command,
    address: tuple[int, str],
    subject: str,
    context: Context,
) -> Outgoing:
    """The command as it is sent to `address` (shard, pool). Raises the 413 of one too large."""
    try:
        return outgoing(command, address, subject, context)
    except CommandTooLarge as error:
        raise ApiError(413, "too_large", f"the command is too large: {error}") from error


async def admit(ingest: Ingest, shard: int, tenant: str) -> None:
    """Raises the 429 or 503 where the shard takes on nothing more of this tenant, or of anyone."""
    overload = await ingest.admission.overload(shard, tenant)
    if overload is None:
        return
    count("foldline_submissions_total", outcome="over_limit")
    headers = {"Retry-After": str(OVERLOAD_RETRY_AFTER_S)}
    if overload.is_tenants:
        raise ApiError(429, "tenant_over_limit", overload.message, headers=headers)
    raise ApiError(503, "shard_over_limit", overload.message, headers=headers)


async def submit(ingest: Ingest, prepared: Prepared, message: Outgoing) -> RecentJob:
    """Send a submission and remember it, so that it can be read before the views have it."""
    size = len(message.value)
    ingest.recent.begin(prepared, size)
    accepted = False
    try:
        place = await put(ingest, message, prepared.command.idempotency_key)
        accepted = True
    finally:
        if not accepted:
            ingest.recent.abandon(prepared.job_id)
            count("foldline_submissions_total", outcome="not_acknowledged")
    return ingest.recent.accept(prepared, size, place, Micros(time.time_ns() // 1000))


async def put(ingest: Ingest, message: Outgoing, key: str = "") -> CommandPlace:
    """Send a command; answers where it lies. Raises the 503 where Kafka does not take it.

    `key` is the idempotency key of a submission, to repeat it with.
    """
    headers = {"Retry-After": str(RETRY_AFTER_S)}
    if key:
        headers[IDEMPOTENCY_KEY_HEADER] = key
    try:
        return await ingest.sink.put(message)
    except SinkOverloaded as error:
        text = f"too many commands wait for Kafka; nothing was sent, try again: {error}"
        raise ApiError(503, "overloaded", text, headers=headers) from error
    except CommandNotAcknowledged as error:
        text = (
            "Kafka has not acknowledged in time, so it is unknown whether the command will count"
            f" ({error}). Repeating it is safe"
        )
        text += f" with {IDEMPOTENCY_KEY_HEADER}: {key}, which makes it the same job" if key else ""
        raise ApiError(503, "outcome_unknown", text, headers=headers) from error
