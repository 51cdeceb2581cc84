"""Kubernetes quantities become integers exactly, rounded up, or are refused in words."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.quantities import (
    BadQuantity,
    cpu_milli,
    gpu_milli,
    memory_mib,
    parse_quantity,
)

pytestmark = pytest.mark.unit

SUFFIXES = {
    "": Fraction(1),
    "n": Fraction(1, 10**9),
    "u": Fraction(1, 10**6),
    "m": Fraction(1, 10**3),
    **{letter: Fraction(10 ** (3 * power)) for power, letter in enumerate("kMGTPE", 1)},
    **{f"{letter}i": Fraction(1 << (10 * power)) for power, letter in enumerate("KMGTPE", 1)},
}
DECIMALS = st.from_regex(r"[0-9]{1,9}(\.[0-9]{0,9})?|\.[0-9]{1,9}", fullmatch=True)


@given(DECIMALS, st.sampled_from(sorted(SUFFIXES)))
def test_a_quantity_is_its_digits_times_its_suffix_exactly(digits: str, suffix: str) -> None:
    assert parse_quantity(digits + suffix) == Fraction(digits) * SUFFIXES[suffix]


@given(DECIMALS, st.integers(-400, 400), st.sampled_from("eE"))
def test_an_exponent_is_a_power_of_ten_exactly(digits: str, exponent: int, letter: str) -> None:
    assert parse_quantity(f"{digits}{letter}{exponent}") == Fraction(digits) * Fraction(10) ** (
        exponent
    )


@given(st.floats(min_value=0, allow_nan=False, allow_infinity=False))
def test_a_json_number_counts_as_its_shortest_decimal_text(number: float) -> None:
    assert parse_quantity(number) == Fraction(repr(number))


@given(DECIMALS, st.sampled_from(sorted(SUFFIXES)))
def test_what_is_finer_than_our_units_is_rounded_up_and_never_down(
    digits: str, suffix: str
) -> None:
    value = Fraction(digits) * SUFFIXES[suffix]
    milli, mib = cpu_milli(digits + suffix), memory_mib(digits + suffix)
    assert 0 <= Fraction(milli, 1000) - value < Fraction(1, 1000)
    assert 0 <= mib * (1 << 20) - value < 1 << 20


@pytest.mark.parametrize(
    ("text", "milli"),
    [("2", 2000), ("500m", 500), (2, 2000), (1.5, 1500), ("0.1", 100), ("100u", 1), ("1n", 1)],
)
def test_cpus_are_thousandths_of_a_core(text: str | float, milli: int) -> None:
    assert cpu_milli(text) == milli


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("8Gi", 8192),
        ("512Mi", 512),
        ("1G", 954),
        ("1Ki", 1),
        (1 << 30, 1024),
        ("1.5Gi", 1536),
        ("1e9", 954),
        ("1E", 953674316407),
        ("128", 1),
        (0, 0),
    ],
)
def test_memory_is_whole_mebibytes_of_an_amount_in_bytes(text: str | float, mib: int) -> None:
    assert memory_mib(text) == mib


@pytest.mark.parametrize(("text", "milli"), [("1", 1000), (4, 4000), (0.5, 500), ("250m", 250)])
def test_gpus_are_a_fraction_of_one_or_whole_ones(text: str | float, milli: int) -> None:
    assert gpu_milli(text) == milli


@pytest.mark.parametrize("text", ["1.5", 2.25, "1001m"])
def test_more_than_one_gpu_must_be_a_whole_number(text: str | float) -> None:
    with pytest.raises(BadQuantity, match="whole number"):
        gpu_milli(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "-1",
        "1 Gi",
        "1gi",
        "1K",
        "one",
        "1e",
        "0x10",
        "1_000",
        "\N{ARABIC-INDIC DIGIT ONE}",
        "1e999999999",
        "9" * 41,
        "1\n",
        "nan",
        float("inf"),
        float("nan"),
        -0.5,
        10**50,
    ],
)
def test_what_is_no_quantity_is_refused_with_an_example(text: str | float) -> None:
    with pytest.raises(BadQuantity, match="write"):
        parse_quantity(text)
