"""Retry policies as the API shows them: of a job, and as a queue's defaults. Pure.

Terms are integers where -1 means that somebody else says it; the API shows that as null.
"""

from __future__ import annotations

from projections.answers import JobDefaultsAnswer, RetryPolicyAnswer, RetryRuleAnswer
from schemas.terms import JobTerms, QueueDefaults, RetryRule

MILLI = 1000


def retry_policy(terms: JobTerms | QueueDefaults) -> RetryPolicyAnswer:
    """The policy in terms, or in a queue's defaults."""
    return RetryPolicyAnswer(
        max_retries=_said(terms.max_retries),
        backoff_seconds=_said(terms.backoff_s),
        backoff_multiplier=_factor(terms.backoff_multiplier_milli),
        max_backoff_seconds=_said(terms.backoff_max_s),
        memory_growth=_factor(terms.memory_growth_milli),
        max_memory_mib=_said(terms.memory_max_mib),
        rules=[_rule(rule) for rule in terms.retry_rules],
    )


def job_defaults(defaults: QueueDefaults) -> JobDefaultsAnswer:
    """What the jobs of a queue get where they say nothing."""
    return JobDefaultsAnswer(
        timeout_seconds=_said(defaults.timeout_s),
        start_timeout_seconds=_said(defaults.start_timeout_s),
        grace_seconds=_said(defaults.grace_s),
        progress_timeout_seconds=_said(defaults.progress_timeout_s),
        deadline_seconds=_said(defaults.deadline_s),
        retry_policy=retry_policy(defaults),
    )


def _rule(rule: RetryRule) -> RetryRuleAnswer:
    return RetryRuleAnswer(
        failure=rule.failure.value,
        max_retries=_said(rule.max_retries),
        backoff_seconds=_said(rule.backoff_s),
        backoff_multiplier=_factor(rule.backoff_multiplier_milli),
        max_backoff_seconds=_said(rule.backoff_max_s),
    )


def _said(value: int) -> int | None:
    return None if value < 0 else value


def _factor(milli: int) -> float | None:
    return None if milli < 0 else milli / MILLI
