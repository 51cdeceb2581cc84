"""What is a legal name and what are legal terms: problems in words, "" where there is none."""

from __future__ import annotations

from schemas.terms import FailureClass, JobTerms, RetryRule, Topology
from stream_processors.domain.state import WHOLE_GPU_MILLI

NAME_MAX = 63
TASKS_MAX = 10_000
AMOUNT_MAX = 1 << 40
SECONDS_MAX = 366 * 86_400
RETRIES_MAX = 1_000
KEY_MAX = 256
ACTOR_MAX = 100
TEXT_MAX = 2_000
ROWS_MAX = 10_000
NAMES_MAX = 64
TEXT_NAME_MAX = 253
DEPENDENCIES_MAX = 1_000
TASK_SPECS_MAX = 64 * 1024 * 1024
"""Bytes of the specs that all tasks of a job are sent: so much must fit into a sender's buffer."""
RULED = frozenset(FailureClass) - {
    FailureClass.UNKNOWN,
    FailureClass.NONE,
    FailureClass.POISON,
    FailureClass.CANCELLED,
}
"""Failure classes that a retry rule may name: poison is never retried, and a cancel is a wish."""
_NAME_LETTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789-._")


def name_problem(name: str) -> str:
    """Names of pools, queues and tenants: 1 to 63 of a-z 0-9 - . _, beginning with a-z 0-9."""
    if not name or len(name) > NAME_MAX:
        return f"must have 1 to {NAME_MAX} characters"
    if not set(name) <= _NAME_LETTERS or name[0] in "-._":
        return "may hold a-z, 0-9, '-', '.', '_' and begins with a letter or digit"
    return ""


def text_problem(text: str, most: int) -> str:
    """Of a text that is kept as it is: what every view can hold, and not too long."""
    if len(text) > most:
        return f"must have at most {most} characters"
    return "must not contain U+0000" if "\0" in text else ""


def plain_text(text: str, most: int) -> str:
    """A message as every view can hold it: without U+0000, and of at most so many characters."""
    return text[:most].replace("\0", "\ufffd")


def terms_problem(terms: JobTerms) -> str:
    """What is wrong with filled-in terms, and what to do."""
    for what, name in (("tenant", terms.tenant), ("cluster", terms.pool), ("queue", terms.queue)):
        if problem := name_problem(name):
            return f"{what} {problem}"
    return (
        _gang_problem(terms)
        or _resource_problem(terms)
        or _names_problem(terms)
        or _time_problem(terms)
        or _retry_problem(terms)
    )


def _gang_problem(terms: JobTerms) -> str:
    if not 1 <= terms.tasks <= TASKS_MAX:
        return f"tasks must be 1 to {TASKS_MAX}"
    if terms.min_members not in (0, terms.tasks):
        return "a gang's min_members must equal its tasks: all members start together"
    if terms.topology is Topology.UNKNOWN:
        return "topology must be none, pack, ring or spread"
    return ""


def _resource_problem(terms: JobTerms) -> str:
    amounts = [terms.cpu_milli, terms.memory_mib, terms.gpu_milli]
    amounts += [extra.amount for extra in terms.extras]
    names = [extra.name for extra in terms.extras]
    if len(set(names)) != len(names) or not all(extra.amount >= 1 for extra in terms.extras):
        return "each named resource must be asked for once, and at least 1 of it"
    if not all(0 <= amount <= AMOUNT_MAX for amount in amounts):
        return "resources must not be negative, or beyond any machine"
    if terms.gpu_milli > WHOLE_GPU_MILLI and terms.gpu_milli % WHOLE_GPU_MILLI:
        return "gpu must be a fraction below 1, or a whole number of devices"
    return ""


def _names_problem(terms: JobTerms) -> str:
    labels = [text for label in terms.node_selector for text in (label.name, label.value)]
    texts = [*labels, *terms.gpu_models, *(extra.name for extra in terms.extras)]
    if len(texts) > NAMES_MAX:
        return f"extras, gpu_models and node_selector may have {NAMES_MAX} names in all"
    problems = (text_problem(text, TEXT_NAME_MAX) for text in texts)
    return next((f"a name of a resource or label {problem}" for problem in problems if problem), "")


def _time_problem(terms: JobTerms) -> str:
    seconds = {
        "timeout_s": (1, terms.timeout_s),
        "start_timeout_s": (1, terms.start_timeout_s),
        "grace_s": (0, terms.grace_s),
        "backoff_s": (0, terms.backoff_s),
        "backoff_max_s": (0, terms.backoff_max_s),
        "progress_timeout_s": (0, terms.progress_timeout_s),
        "deadline_s": (0, terms.deadline_s),
    }
    for name, (least, value) in seconds.items():
        if not least <= value <= SECONDS_MAX:
            return f"{name} must be {least} to {SECONDS_MAX} seconds"
    return ""


def _retry_problem(terms: JobTerms) -> str:
    if not 0 <= terms.max_retries <= RETRIES_MAX:
        return f"max_retries must be 0 to {RETRIES_MAX}"
    if not 1000 <= terms.backoff_multiplier_milli <= 100_000:
        return "backoff_multiplier must be 1 to 100"
    if not 1000 <= terms.memory_growth_milli <= 10_000:
        return "memory_growth must be 1 (none) to 10"
    if not 0 <= terms.memory_max_mib <= AMOUNT_MAX:
        return "memory_max must not be negative, or beyond any machine"
    named = [rule.failure for rule in terms.retry_rules]
    if len(set(named)) != len(named) or not set(named) <= RULED:
        classes = ", ".join(sorted(RULED))
        return f"each retry rule names another failure class of: {classes}"
    return next((text for rule in terms.retry_rules if (text := _rule_problem(rule))), "")


def _rule_problem(rule: RetryRule) -> str:
    of = f"in the retry rule of {rule.failure.value}"
    if not -1 <= rule.max_retries <= RETRIES_MAX:
        return f"max_retries {of} must be 0 to {RETRIES_MAX}"
    for name, value in (("backoff_s", rule.backoff_s), ("backoff_max_s", rule.backoff_max_s)):
        if not -1 <= value <= SECONDS_MAX:
            return f"{name} {of} must be 0 to {SECONDS_MAX} seconds"
    if rule.backoff_multiplier_milli != -1 and not 1000 <= rule.backoff_multiplier_milli <= 100_000:
        return f"backoff_multiplier {of} must be 1 to 100"
    return ""
