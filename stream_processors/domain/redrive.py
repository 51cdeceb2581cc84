"""A dead letter becomes a submission again: the same work, under terms that may be changed.

Pure. The idempotency key follows from the letter and the changes, so that asking twice, by whoever,
is the same job; other changes are another one. Used by the API and by the triage of dead letters.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from hashlib import blake2b

from schemas.commands import SubmitJob
from schemas.terms import EnvVar, JobSpec, JobTerms

UNSET = -1
MILLI = 1000


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be different; -1, "" and () leave a thing as the letter has it.

    `memory_factor_milli` grows (or shrinks) the memory by so many thousandths and is of no effect
    beside `memory_mib`. `env` are variables to set, over those that are there.
    """

    cpu_milli: int = UNSET
    memory_mib: int = UNSET
    memory_factor_milli: int = UNSET
    gpu_milli: int = UNSET
    queue: str = ""
    priority: int = UNSET
    timeout_s: int = UNSET
    max_retries: int = UNSET
    image: str = ""
    command: tuple[str, ...] = ()
    env: tuple[EnvVar, ...] = ()


AS_IT_WAS = Changes()


@dataclass(frozen=True, slots=True)
class LetterSource:
    """What of a dead letter runs again. `at` is when it was laid aside (UTC microseconds)."""

    job_id: str
    at: int
    terms: JobTerms
    priority: int
    spec: JobSpec


def redriven(letter: LetterSource, changes: Changes, actor: str, causation_id: str) -> SubmitJob:
    """The command that runs a letter again; `causation_id` names what asked for it."""
    return SubmitJob(
        terms=changed_terms(letter.terms, changes),
        idempotency_key=redrive_key(letter, changes),
        priority=letter.priority if changes.priority == UNSET else changes.priority,
        depends_on=(),
        key_id=0,
        actor=actor,
        causation_id=causation_id,
        redrives=letter.job_id,
        spec=changed_spec(letter.spec, changes),
    )


def redrive_key(letter: LetterSource, changes: Changes) -> str:
    """The key of a redrive: of the letter, and of those changes that say something."""
    said = [
        (field.name, value)
        for field in fields(Changes)
        if (value := getattr(changes, field.name)) != getattr(AS_IT_WAS, field.name)
    ]
    digest = blake2b(repr((letter.at, said)).encode(), digest_size=8).hexdigest()
    return f"redrive:{letter.job_id}:{digest}"


def changed_terms(terms: JobTerms, changes: Changes) -> JobTerms:
    """The letter's terms with the changes; more memory than its bound raises the bound."""
    memory_mib = terms.memory_mib
    if changes.memory_mib != UNSET:
        memory_mib = changes.memory_mib
    elif changes.memory_factor_milli != UNSET:
        memory_mib = -(-memory_mib * changes.memory_factor_milli // MILLI)
    return replace(
        terms,
        cpu_milli=_said(changes.cpu_milli, terms.cpu_milli),
        memory_mib=memory_mib,
        memory_max_mib=max(terms.memory_max_mib, memory_mib),
        gpu_milli=_said(changes.gpu_milli, terms.gpu_milli),
        queue=changes.queue or terms.queue,
        timeout_s=_said(changes.timeout_s, terms.timeout_s),
        max_retries=_said(changes.max_retries, terms.max_retries),
    )


def changed_spec(spec: JobSpec, changes: Changes) -> JobSpec:
    """The letter's spec with the changes."""
    env = {variable.name: variable.value for variable in (*spec.env, *changes.env)}
    return replace(
        spec,
        image=changes.image or spec.image,
        command=changes.command or spec.command,
        env=tuple(EnvVar(*pair) for pair in sorted(env.items())) if changes.env else spec.env,
    )


def _said(value: int, otherwise: int) -> int:
    return otherwise if value == UNSET else value
