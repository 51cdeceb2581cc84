"""Whether, when, where and with how much memory a failed attempt is followed by another.

Pure functions of the job and of how it failed. Backoff is exponential with a cap, and its jitter
depends on nothing but the job's id and the attempt, so that a replay and a second look give the
same moment. `attempts.py` decides by these, the fold keeps what they count.
"""

from __future__ import annotations

import re
from dataclasses import replace
from enum import Enum, auto
from hashlib import blake2b

from schemas.terms import FailureClass, JobTerms, RetryRule
from stream_processors.domain.state import Job, Task, TaskPhase

FREE = frozenset({FailureClass.NODE_LOST, FailureClass.PREEMPTED, FailureClass.CANCELLED})
"""Not the job's fault: these attempts cost no retry. CANCELLED without a user's wish is an agent
that had to stop its tasks."""

OWN_BUDGETS = {
    FailureClass.IMAGE_ERROR: 0,
    FailureClass.POISON: 0,
    FailureClass.INFRASTRUCTURE: 10,
}
"""Retries of a class that do not come out of the job's `max_retries`. Another attempt with an image
that is not there would end the same way; a machine that failed is not the job's fault, but a job
that finds ten of them may well be."""

AT_ONCE = frozenset({FailureClass.NODE_LOST, FailureClass.PREEMPTED})
"""Another attempt follows these without a delay, unless a rule of the job names one: waiting would
mend nothing, and a lease has passed already. An agent that stops its tasks may do so again."""

AVOIDING = frozenset(
    {
        FailureClass.USER_ERROR,
        FailureClass.TIMEOUT,
        FailureClass.NODE_LOST,
        FailureClass.START_TIMEOUT,
        FailureClass.INFRASTRUCTURE,
    }
)
"""Failures that may be the node's fault: the next attempt keeps off it. A broken GPU looks like an
error of the program. Running out of memory does not depend on the node."""

MILLI = 1000
SECOND_US = 1_000_000
HOUR_US = 3_600 * SECOND_US
PUT_OFF_MAX_US = 366 * 24 * HOUR_US
"""A year: later than that is a moment that no calendar of a view may have to show."""


class Next(Enum):
    """What follows an attempt without success."""

    RETRY = auto()
    DEAD_LETTER = auto()
    FAIL = auto()


def rule_of(terms: JobTerms, failure: FailureClass) -> RetryRule | None:
    """What the job says of this class, if anything."""
    return next((rule for rule in terms.retry_rules if rule.failure is failure), None)


def own_budget(terms: JobTerms, failure: FailureClass) -> int | None:
    """How often this class is retried beside the job's own budget; None where it has no budget."""
    rule = rule_of(terms, failure)
    if rule is not None and rule.max_retries >= 0:
        return rule.max_retries
    return OWN_BUDGETS.get(failure)


def what_next(job: Job, failure: FailureClass) -> Next:
    """Whether the attempt is followed by another, or how the job ends."""
    own = own_budget(job.terms, failure)
    if own is not None:
        if _retried(job, failure) < own:
            return Next.RETRY
        is_refused = own == 0 and failure is not FailureClass.POISON
        return Next.FAIL if is_refused else Next.DEAD_LETTER
    if failure in FREE or retries_left(job) > 0:
        return Next.RETRY
    return Next.DEAD_LETTER


def retries_left(job: Job) -> int:
    """What is left of the job's own budget."""
    used = sum(
        count
        for failure, count in job.retried
        if failure not in FREE and own_budget(job.terms, failure) is None
    )
    return max(0, job.terms.max_retries - used)


def _retried(job: Job, failure: FailureClass) -> int:
    return dict(job.retried).get(failure, 0)


def cost(failure: FailureClass) -> int:
    """What an attempt that ended so takes from the budgets of its queue and tenant: 0 or 1."""
    return 0 if failure in FREE else 1


def backoff_us(terms: JobTerms, job_id: bytes, attempt: int, nth: int) -> int:
    """Microseconds from the nth failure that counted to the next attempt.

    The full delay is backoff_s * multiplier ** (nth - 1), at most backoff_max_s; the lower half is
    certain and the upper half jitter ("equal jitter", AWS Architecture Blog 2015).
    """
    full = terms.backoff_s * SECOND_US
    cap = max(terms.backoff_max_s, terms.backoff_s) * SECOND_US
    for _ in range(nth - 1):
        full = full * terms.backoff_multiplier_milli // MILLI
        if full >= cap:
            break
    full = min(full, cap)
    half = full // 2
    chance = blake2b(job_id + attempt.to_bytes(8, "big"), digest_size=8).digest()
    return full - half + int.from_bytes(chance, "big") % (half + 1)


def delay_us(job: Job, failure: FailureClass) -> int:
    """Microseconds from this failure of the job's attempt to its next one.

    Failures of a class with a budget of its own count by themselves; a free one is followed at the
    first delay, or at once (`AT_ONCE`).
    """
    terms = job.terms
    rule = rule_of(terms, failure)
    if failure in AT_ONCE and (rule is None or rule.backoff_s == -1):
        return 0
    if rule is not None:
        terms = replace(
            terms,
            backoff_s=_said(rule.backoff_s, terms.backoff_s),
            backoff_multiplier_milli=_said(
                rule.backoff_multiplier_milli, terms.backoff_multiplier_milli
            ),
            backoff_max_s=_said(rule.backoff_max_s, terms.backoff_max_s),
        )
    if failure in FREE:
        nth = 1
    elif own_budget(terms, failure) is not None:
        nth = _retried(job, failure) + 1
    else:
        nth = job.retries_used + 1
    return backoff_us(terms, job.job_id, job.attempt, nth)


def _said(value: int, otherwise: int) -> int:
    return otherwise if value == -1 else value


def pace(until: int, at: int, per_hour: int) -> int:
    """How far a budget of retries is used once one more at `at` is taken from it.

    The generic cell rate algorithm (ITU-T I.371): every retry takes its share of an hour, from
    where the last one stopped or from now. A budget may be used an hour ahead: `paced_at`. No
    retry is put off by more than `PUT_OFF_MAX_US`.
    """
    return min(max(until, at) + HOUR_US // per_hour, at + PUT_OFF_MAX_US)


def paced_at(until: int) -> int:
    """The earliest moment of the retry that used a budget up to `until`."""
    return until - HOUR_US


def grown_memory(terms: JobTerms, largest_mib: int) -> int:
    """The memory of a task after it ran out of it: grown, to no more than allowed or than exists.

    `largest_mib` is the memory of the largest node that may take the job.
    """
    grown = -(-terms.memory_mib * max(terms.memory_growth_milli, MILLI) // MILLI)
    return max(terms.memory_mib, min(grown, terms.memory_max_mib, largest_mib))


def culprits(job: Job, failure: FailureClass) -> list[str]:
    """Names of the nodes that may be to blame for the failure of the job's attempt."""
    tasks = list(job.tasks.values())
    if failure not in AVOIDING or not tasks:
        return []
    if failure is FailureClass.START_TIMEOUT:
        least = min(task.reached for task in tasks)
        guilty = [task for task in tasks if task.reached == least < TaskPhase.STARTED]
    else:
        guilty = [task for task in tasks if task.failure is failure]
    return list(dict.fromkeys(task.node for task in guilty))


_NUMBERS = re.compile(r"0x[0-9a-f]+|\b(?=[0-9a-f-]*\d)[0-9a-f-]{8,}\b|\d+")
_SPACES = re.compile(r"\s+")
LINE_MAX = 500


def failure_fingerprint(failure: FailureClass, message: str, tasks: list[Task]) -> str:
    """16 hex digits, alike for failures that a person would call the same.

    Of the class, the exit code, and the last line that the failed task wrote (else the message),
    without numbers and addresses in it.
    """
    speaker = next((task for task in tasks if task.failure is not FailureClass.NONE), None)
    exit_code = speaker.exit_code if speaker else 0
    lines = [line for line in (speaker.tail if speaker else "").splitlines() if line.strip()]
    said = (lines[-1] if lines else message)[:LINE_MAX].lower()
    plain = _SPACES.sub(" ", _NUMBERS.sub("#", said)).strip()
    what = f"{failure.value}\0{exit_code}\0{plain}"
    return blake2b(what.encode(), digest_size=8).hexdigest()
