"""Whether and when a failed attempt is followed by another.

Exponential backoff with a cap and jitter that depends on nothing but the job's id and the attempt,
so that a replay and a second look give the same moment.
"""

from __future__ import annotations

from hashlib import blake2b

from schemas.terms import FailureClass, JobTerms

FREE = frozenset({FailureClass.NODE_LOST, FailureClass.PREEMPTED, FailureClass.CANCELLED})
"""Not the job's fault: these attempts cost no retry. CANCELLED without a user's wish is an agent
that had to stop its tasks."""

NOT_RETRIED = frozenset({FailureClass.IMAGE_ERROR})
"""Another attempt would end the same way: the job has failed."""

MILLI = 1000
SECOND_US = 1_000_000


def cost(failure: FailureClass) -> int:
    """What an attempt that ended so takes from the budget: 0 or 1."""
    return 0 if failure in FREE else 1


def backoff_us(terms: JobTerms, job_id: bytes, attempt: int, retries_used: int) -> int:
    """Microseconds until the next attempt after `retries_used` that counted (this one included).

    The full delay is backoff_s * multiplier ** (retries_used - 1), at most backoff_max_s; the
    lower half is certain and the upper half jitter ("equal jitter", AWS Architecture Blog 2015).
    A free attempt is followed at the first delay.
    """
    full = terms.backoff_s * SECOND_US
    cap = max(terms.backoff_max_s, terms.backoff_s) * SECOND_US
    for _ in range(retries_used - 1):
        full = full * terms.backoff_multiplier_milli // MILLI
        if full >= cap:
            break
    full = min(full, cap)
    half = full // 2
    chance = blake2b(job_id + attempt.to_bytes(8, "big"), digest_size=8).digest()
    return full - half + int.from_bytes(chance, "big") % (half + 1)
