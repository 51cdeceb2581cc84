"""The kinds of values that bodies are made of: names, texts, amounts, documents. Each checks itself.

Pydantic types only; nothing here touches the network. What is said to callers is the pattern in
words. Bodies are in `requests.py`, `retry_requests.py` and `letter_requests.py`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    WithJsonSchema,
)
from pydantic.config import JsonDict

from ingest import quantities
from stream_processors.domain.limits import AMOUNT_MAX, NAME_MAX, SECONDS_MAX

PRIORITY_MAX = 100
ARGUMENT_MAX = 32_000
"""Characters of one argument or variable: what Linux takes in one, at four bytes each."""
CONFIG_DEPTH_MAX = 100

NAME_PATTERN = rf"^[a-z0-9][a-z0-9._-]{{0,{NAME_MAX - 1}}}$"
NAME_HINT = f"1 to {NAME_MAX} of a-z, 0-9, '-', '.', '_', beginning with a letter or digit"
WORD_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
WORD_HINT = "1 to 63 of letters, digits, '-', '.', '_', beginning with a letter or digit"
ENV_PATTERN = r"^[A-Za-z_][A-Za-z0-9_.-]{0,254}$"
ENV_HINT = "a variable's name: letters, digits, '_', '.', '-', not beginning with a digit"
LABEL_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,252}$"
LABEL_HINT = "a label's name: up to 253 letters, digits, '.', '_', '/', '-'"
JOB_ID_PATTERN = r"^[0-9a-f]{8}-[0-9a-f]{4}-8[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$"
JOB_ID_HINT = "a job's id as POST /jobs/ answered it"


_SURROGATE = re.compile("[\ud800-\udfff]")


def matching(pattern: str, hint: str) -> Callable[[str], str]:
    """A check that says, in words, what the pattern asks for."""
    compiled = re.compile(pattern[1:-1], re.ASCII)

    def check(value: str) -> str:
        if compiled.fullmatch(value) is None:
            raise ValueError(f"must be {hint}")
        return value

    return check


def _sendable(value: str) -> str:
    if "\x00" in value:
        raise ValueError("must not hold the NUL character: no argument or variable can")
    if _SURROGATE.search(value):
        raise ValueError("holds half of a surrogate pair: send whole characters")
    return value


def _text_schema(least: int, most: int) -> WithJsonSchema:
    return WithJsonSchema(
        {"type": "string", "minLength": least, "maxLength": most, "pattern": r"^[^\x00]*$"}
    )


Name = Annotated[
    str,
    AfterValidator(matching(NAME_PATTERN, NAME_HINT)),
    WithJsonSchema({"type": "string", "pattern": NAME_PATTERN}),
]
Word = Annotated[
    str,
    AfterValidator(matching(WORD_PATTERN, WORD_HINT)),
    WithJsonSchema({"type": "string", "pattern": WORD_PATTERN}),
]
EnvName = Annotated[
    str,
    AfterValidator(matching(ENV_PATTERN, ENV_HINT)),
    WithJsonSchema({"type": "string", "pattern": ENV_PATTERN}),
]
LabelName = Annotated[
    str,
    AfterValidator(matching(LABEL_PATTERN, LABEL_HINT)),
    WithJsonSchema({"type": "string", "pattern": LABEL_PATTERN}),
]
JobId = Annotated[
    str,
    AfterValidator(matching(JOB_ID_PATTERN, JOB_ID_HINT)),
    WithJsonSchema({"type": "string", "pattern": JOB_ID_PATTERN}),
]
Argument = Annotated[
    str,
    Field(min_length=1, max_length=ARGUMENT_MAX),
    AfterValidator(_sendable),
    _text_schema(1, ARGUMENT_MAX),
]
Value = Annotated[
    str,
    Field(max_length=ARGUMENT_MAX),
    AfterValidator(_sendable),
    _text_schema(0, ARGUMENT_MAX),
]
ShortText = Annotated[str, Field(max_length=1000), AfterValidator(_sendable), _text_schema(0, 1000)]
Seconds = Annotated[int, Field(ge=0, le=SECONDS_MAX)]
SomeSeconds = Annotated[int, Field(ge=1, le=SECONDS_MAX)]


def _amount(convert: Callable[[str | float], int]) -> Callable[[object], int]:
    def read(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise ValueError('must be a number or a quantity such as "500m" or "8Gi"')  # noqa: TRY004 - pydantic wants ValueError
        amount = convert(value)
        if amount > AMOUNT_MAX:
            raise ValueError("is beyond any machine: ask for less")
        return amount

    return read


QuantityInput = Annotated[
    str | float,
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "string", "pattern": quantities.QUANTITY_PATTERN, "maxLength": 40},
                {"type": "number", "minimum": 0},
            ]
        }
    ),
]
CpuMilli = Annotated[
    int, BeforeValidator(_amount(quantities.cpu_milli), json_schema_input_type=QuantityInput)
]
MemoryMib = Annotated[
    int, BeforeValidator(_amount(quantities.memory_mib), json_schema_input_type=QuantityInput)
]
GpuMilli = Annotated[
    int, BeforeValidator(_amount(quantities.gpu_milli), json_schema_input_type=QuantityInput)
]


def _config_text(value: object) -> str:
    """The document as compact JSON with sorted keys, so that equal ones are equal text."""
    if not isinstance(value, dict):
        raise ValueError("must be a JSON object")  # noqa: TRY004 - pydantic wants ValueError
    _check_document(value)
    try:
        return json.dumps(
            value, ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":")
        )
    except ValueError as error:
        raise ValueError("holds a number that JSON cannot express (NaN, Infinity)") from error


def _check_document(value: object) -> None:
    """Depth and texts, without recursion: the document may be hostile."""
    pending: list[tuple[object, int]] = [(value, 1)]
    while pending:
        item, depth = pending.pop()
        if depth > CONFIG_DEPTH_MAX:
            raise ValueError(f"is nested deeper than {CONFIG_DEPTH_MAX} levels: make it flatter")
        if isinstance(item, str):
            _sendable(item)
        elif isinstance(item, dict):
            pending.extend((key, depth + 1) for key in item)
            pending.extend((entry, depth + 1) for entry in item.values())
        elif isinstance(item, list):
            pending.extend((entry, depth + 1) for entry in item)


ConfigText = Annotated[str, BeforeValidator(_config_text, json_schema_input_type=dict[str, Any])]


ONLY_MATCHING: JsonDict = {"additionalProperties": False}
"""Maps take no other names than those of their pattern."""


class Body(BaseModel):
    """What all bodies share: nothing unknown, nothing silently converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
