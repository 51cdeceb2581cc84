"""Kubernetes quantities to integers, exactly: "500m" CPU, "8Gi" memory, 0.5 of a GPU.

Pure functions over exact fractions: no float ever enters. The grammar is that of Kubernetes'
`resource.Quantity` (binary and decimal suffixes, or a decimal exponent), without its sign: a
resource is never negative. What is finer than our smallest unit (a thousandth of a core or device,
a MiB of memory) is rounded up, as Kubernetes rounds up to its own: a task never gets less than it
asked for. `requests.py` turns `BadQuantity` into a message for the caller.
"""

from __future__ import annotations

import re
from fractions import Fraction

MILLI = 1000
MIB = 1 << 20
TEXT_MAX = 40
"""With the exponent's three digits this bounds the cost of reading a hostile number."""

_SUFFIXES = {
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 1000),
    "": Fraction(1),
    "k": Fraction(10**3),
    "M": Fraction(10**6),
    "G": Fraction(10**9),
    "T": Fraction(10**12),
    "P": Fraction(10**15),
    "E": Fraction(10**18),
    "Ki": Fraction(1 << 10),
    "Mi": Fraction(1 << 20),
    "Gi": Fraction(1 << 30),
    "Ti": Fraction(1 << 40),
    "Pi": Fraction(1 << 50),
    "Ei": Fraction(1 << 60),
}

QUANTITY_PATTERN = r"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][+-]?[0-9]{1,3})?$"
"""The grammar, in the dialect that JSON Schema and Python share."""
_QUANTITY = re.compile(
    r"\+?(?P<digits>[0-9]+(?:\.[0-9]*)?|\.[0-9]+)"
    r"(?:(?P<suffix>[numkMGTPE]|[KMGTPE]i)|[eE](?P<exponent>[+-]?[0-9]{1,3}))?",
    re.ASCII,
)


class BadQuantity(ValueError):
    """The text is no quantity that we can take; the message says what to write instead."""


def cpu_milli(value: str | float) -> int:
    """Thousandths of a core, rounded up: "2", "500m", 1.5."""
    return _ceil(parse_quantity(value) * MILLI)


def memory_mib(value: str | float) -> int:
    """MiB, rounded up, of an amount in bytes: "8Gi", "512Mi", "1G", 1073741824."""
    return _ceil(parse_quantity(value) / MIB)


def gpu_milli(value: str | float) -> int:
    """Thousandths of a device, rounded up: "1", 4, 0.5, "500m". More than one must be whole."""
    milli = _ceil(parse_quantity(value) * MILLI)
    if milli > MILLI and milli % MILLI:
        raise BadQuantity("ask for a fraction below 1 of one GPU, or for a whole number of GPUs")
    return milli


def parse_quantity(value: str | float) -> Fraction:
    """The exact value of a quantity; a JSON number counts as its shortest decimal text."""
    text = value if isinstance(value, str) else repr(value)
    match = _QUANTITY.fullmatch(text) if len(text) <= TEXT_MAX else None
    if match is None:
        raise BadQuantity('write a quantity such as 2, "500m", "1.5" or "8Gi"; never negative')
    number = Fraction(match["digits"])
    if match["exponent"] is None:
        return number * _SUFFIXES[match["suffix"] or ""]
    return number * Fraction(10) ** int(match["exponent"])


def _ceil(value: Fraction) -> int:
    return -(-value.numerator // value.denominator)
