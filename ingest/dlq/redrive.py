"""Dead letters to commands: what runs again and under which terms, what is sent again as it came.

`RedriveBody` and letters in, one outcome each. A job's letter becomes a new submission with its
cause, whose key follows from letter and changes: asked twice, it is the same job. An input that
nobody could read is sent again byte for byte, for a release that can read it, and its letter
purged. Nothing here waits but for Kafka and for the rate that was asked for.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic

from infra.http.errors import ApiError
from ingest.app import Ingest
from ingest.dlq.answers import RedriveOutcome
from ingest.dlq.requests import LetterChanges, RedriveBody
from ingest.ports import InputLetter, JobLetter, KnownLetter, Outgoing
from ingest.sending import admit, encoded, put, submit
from ingest.submit import ACTOR, Context, Prepared, milli, or_unset, submission_of
from schemas.codec import MalformedRecord, UnknownSchema, decode_spec
from schemas.commands import PurgeDeadLetters, SubmitJob
from schemas.ids import format_job_id, job_id, partition_of
from schemas.terms import EnvVar
from schemas.topics import MAX_COMMAND_BYTES
from stream_processors.domain.defaults import spec_hash
from stream_processors.domain.limits import terms_problem
from stream_processors.domain.redrive import Changes, LetterSource, redriven

REQUEST_S = 5.0
"""With a rate, a request deals with no more letters than fit into so long."""
COMMANDS_INPUT = "commands"


def paced_limit(body: RedriveBody) -> int:
    """How many letters one request deals with."""
    if body.rate_per_s is None:
        return body.limit
    return min(body.limit, max(1, int(body.rate_per_s * REQUEST_S)))


def changes_of(body: LetterChanges) -> Changes:
    """What a body says is to be different."""
    return Changes(
        cpu_milli=body.resources.cpu,
        memory_mib=body.resources.memory,
        memory_factor_milli=milli(body.memory_factor),
        gpu_milli=body.resources.gpu,
        queue=body.queue or "",
        priority=or_unset(body.priority),
        timeout_s=or_unset(body.timeout_seconds),
        max_retries=or_unset(body.max_retries),
        image=body.image,
        command=tuple(body.command),
        env=tuple(EnvVar(*pair) for pair in sorted(body.env.items())),
    )


async def redrive_all(
    ingest: Ingest, letters: Sequence[KnownLetter], body: RedriveBody, context: Context
) -> list[RedriveOutcome]:
    """Deal with each letter in turn, no faster than asked; an outcome for each.

    Raises the `ApiError` of a send that failed; what was sent before is told in its message.
    """
    changes = changes_of(body.changes)
    outcomes: list[RedriveOutcome] = []
    began = monotonic()
    for letter in letters:
        own = replace(context, event_id=str(uuid.uuid4()))
        try:
            outcomes.append(await _redrive(ingest, letter, (changes, body.dry_run), own))
        except ApiError as error:
            sent = sum(one.outcome == "sent" for one in outcomes)
            error.message = f"{sent} letters were redriven before this: {error.message}"
            raise
        if body.rate_per_s is not None and not body.dry_run:
            await asyncio.sleep(max(began + len(outcomes) / body.rate_per_s - monotonic(), 0.0))
    return outcomes


async def _redrive(
    ingest: Ingest, letter: KnownLetter, how: tuple[Changes, bool], context: Context
) -> RedriveOutcome:
    what = letter.what
    if isinstance(what, InputLetter):
        return await _send_again(ingest, letter, what, how, context)
    prepared = _prepared(letter, what, how[0], ingest.sink.shards)
    if isinstance(prepared, str):
        return RedriveOutcome(letter_id=letter.letter_id, outcome="skipped", message=prepared)
    outcome = _outcome(letter, prepared)
    if how[1]:
        return outcome
    terms = prepared.command.terms
    await admit(ingest, prepared.shard, terms.tenant)
    address = (prepared.shard, terms.pool)
    message = encoded(prepared.command, address, prepared.job_id, context)
    job = await submit(ingest, prepared, message)
    return outcome.model_copy(update={"outcome": "sent", "position": str(job.place)})


def _prepared(
    letter: KnownLetter, what: JobLetter, changes: Changes, shards: int
) -> Prepared | str:
    """The submission that runs the letter again, or why there is none."""
    if what.key_id:
        return "its spec is encrypted: submit it again where the key is"
    try:
        spec = decode_spec(what.spec_schema_id, what.spec)
    except (MalformedRecord, UnknownSchema) as error:
        return f"its spec cannot be read ({error}): submit it again where it was made"
    source = LetterSource(letter.letter_id, letter.at, what.terms, what.priority, spec)
    command = redriven(source, changes, ACTOR, f"redrive:{letter.letter_id}")
    if problem := terms_problem(command.terms):
        return problem
    return _prepare(command, shards)


def _prepare(command: SubmitJob, shards: int) -> Prepared:
    terms = command.terms
    shard = partition_of(terms.pool, shards)
    uid = job_id(shard, terms.tenant, terms.pool, command.idempotency_key)
    return Prepared(format_job_id(uid), shard, command, spec_hash(submission_of(command)))


def _outcome(letter: KnownLetter, prepared: Prepared) -> RedriveOutcome:
    terms = prepared.command.terms
    return RedriveOutcome(
        letter_id=letter.letter_id,
        outcome="would_send",
        job_id=prepared.job_id,
        cluster=terms.pool,
        queue=terms.queue,
        cpu_milli=terms.cpu_milli,
        memory_mib=terms.memory_mib,
        gpu_milli=terms.gpu_milli,
        max_retries=terms.max_retries,
        image=prepared.command.spec.image,
    )


async def _send_again(
    ingest: Ingest,
    letter: KnownLetter,
    what: InputLetter,
    how: tuple[Changes, bool],
    context: Context,
) -> RedriveOutcome:
    """The original bytes, to the input that they came from; then the letter is dealt with."""
    changes, dry_run = how
    problem = _input_problem(what, changes)
    outcome = "skipped" if problem else "would_send"
    answer = RedriveOutcome(letter_id=letter.letter_id, outcome=outcome, message=problem)
    if problem or dry_run:
        return answer
    key = what.key.decode(errors="replace")
    place = await put(ingest, Outgoing(letter.shard, key, what.value, what.headers))
    purge = PurgeDeadLetters((letter.letter_id,), f"sent again, as command {place}", ACTOR)
    await put(ingest, encoded(purge, (letter.shard, key), letter.letter_id, context))
    return answer.model_copy(update={"outcome": "sent", "position": str(place)})


def _input_problem(what: InputLetter, changes: Changes) -> str:
    if what.input != COMMANDS_INPUT:
        return "it is a report of a node: its agent has reported anew; purge the letter"
    if what.size > len(what.value):
        return f"only its first {len(what.value)} of {what.size} bytes are kept; purge the letter"
    if what.size > MAX_COMMAND_BYTES:
        return f"it has {what.size} bytes and at most {MAX_COMMAND_BYTES} are taken; purge it"
    if changes != Changes():
        return "it cannot be read, so nothing in it can be changed: redrive it without changes"
    return ""
