# SPDX-License-Identifier: Apache-2.0
"""Amounts on a command line: what is read, and what is refused in which words."""

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from converter.core.reports.units import parse_bytes, parse_share, parse_us
from edgefleet.contracts.errors import InputError

SIZE = "write a size as 250kB (1000 bytes each), 64KiB (1024 each), 1MB, 1MiB or in bytes: 65536"
SHARE = "write a share as 0.5pt (points of a hundred), 0.5% or 0.005"
TIME = "write a time as 10ms, 500us or 1s"


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("250kB", 250_000),
        ("250 KB", 250_000),
        ("64KiB", 65_536),
        ("1MB", 1_000_000),
        ("1.5MiB", 1_572_864),
        ("65536", 65_536),
        ("12B", 12),
        (" 0.1kB ", 100),
    ],
)
def test_sizes_are_read(text: str, size: int) -> None:
    assert parse_bytes(text) == size


@pytest.mark.parametrize(
    ("text", "share"), [("0.5pt", 0.005), ("1%", 0.01), ("0.005", 0.005), ("0", 0.0), ("100%", 1.0)]
)
def test_shares_are_read(text: str, share: float) -> None:
    assert parse_share(text) == share


@pytest.mark.parametrize(
    ("text", "time_us"), [("10ms", 10_000), ("500us", 500), ("500µs", 500), ("1s", 1_000_000), ("0.5ms", 500)]
)
def test_times_are_read(text: str, time_us: int) -> None:
    assert parse_us(text) == time_us


@pytest.mark.parametrize(
    ("parse", "text", "message", "hint"),
    [
        (parse_bytes, "much", "'much' is no number with a unit", SIZE),
        (parse_bytes, "-5kB", "'-5kB' is no number with a unit", SIZE),
        (parse_bytes, "1e3", "'1e3' is no number with a unit", SIZE),
        (parse_bytes, "", "'' is no number with a unit", SIZE),
        (parse_bytes, "64kb", "'64kb' has the unit 'kb', expected one of B, kB, KB, KiB, MB, MiB", SIZE),
        (parse_bytes, "0", "'0' is no whole number of bytes above 0", SIZE),
        (parse_bytes, "0.5B", "'0.5B' is no whole number of bytes above 0", SIZE),
        (parse_share, "2", "'2' is more than the whole", SHARE),
        (parse_share, "101%", "'101%' is more than the whole", SHARE),
        (parse_share, "1ppm", "'1ppm' has the unit 'ppm', expected one of %, pt", SHARE),
        (parse_us, "10", "'10' has no unit, expected one of us, µs, μs, ms, s", TIME),
        (parse_us, "0ms", "'0ms' is no whole number of microseconds above 0", TIME),
        (parse_us, "1.2.3ms", "'1.2.3ms' is no number with a unit", TIME),
    ],
)
def test_what_is_no_amount_is_refused_in_a_sentence(
    parse: Callable[[str], object], text: str, message: str, hint: str
) -> None:
    with pytest.raises(InputError) as refused:
        parse(text)
    assert (refused.value.message, refused.value.hint) == (message, hint)


@given(st.text())
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_bytes, parse_share, parse_us):
        with contextlib.suppress(InputError):
            assert parse(text) >= 0


@given(st.integers(1, 10**9))
def test_whole_numbers_mean_the_same_in_every_unit(number: int) -> None:
    assert parse_bytes(f"{number}kB") == number * parse_bytes("1kB") == number * 1000
    assert parse_us(f"{number}ms") == number * 1000
