# SPDX-License-Identifier: Apache-2.0
"""Amounts as people write them on a command line: sizes, shares and times."""

import re
from collections.abc import Mapping
from fractions import Fraction

from edgefleet.contracts.errors import InputError

_NUMBER = re.compile(r"\s*([0-9]+(?:\.[0-9]*)?|\.[0-9]+)\s*([^\s0-9.]*)\s*", re.ASCII)
_BYTES: Mapping[str, Fraction] = {
    "": Fraction(1),
    "B": Fraction(1),
    "kB": Fraction(10**3),
    "KB": Fraction(10**3),
    "KiB": Fraction(2**10),
    "MB": Fraction(10**6),
    "MiB": Fraction(2**20),
}
_SHARES: Mapping[str, Fraction] = {"": Fraction(1), "%": Fraction(1, 100), "pt": Fraction(1, 100)}
_MICROSECONDS: Mapping[str, Fraction] = {
    "us": Fraction(1),
    "µs": Fraction(1),
    "μs": Fraction(1),
    "ms": Fraction(10**3),
    "s": Fraction(10**6),
}


def parse_bytes(text: str) -> int:
    """Read a size in bytes: ``250kB`` is 250,000, ``64KiB`` 65,536, a bare number counts bytes.

    Raises:
        InputError: it is no such size, or no whole number of bytes above 0.
    """
    return _whole(text, _amount(text, _BYTES, _SIZE), _SIZE, "bytes")


def parse_share(text: str) -> float:
    """Read a share: ``0.5pt`` (points of a hundred), ``0.5%`` and ``0.005`` are the same.

    Raises:
        InputError: it is no share between 0 and 1.
    """
    share = _amount(text, _SHARES, _SHARE)
    if share > 1:
        raise InputError(f"'{text}' is more than the whole", hint=_SHARE)
    return float(share)


def parse_us(text: str) -> int:
    """Read a time in microseconds: ``10ms`` is 10,000; a unit must be given.

    Raises:
        InputError: it is no such time, or no whole number of microseconds above 0.
    """
    return _whole(text, _amount(text, _MICROSECONDS, _TIME), _TIME, "microseconds")


_SIZE = "write a size as 250kB (1000 bytes each), 64KiB (1024 each), 1MB, 1MiB or in bytes: 65536"
_SHARE = "write a share as 0.5pt (points of a hundred), 0.5% or 0.005"
_TIME = "write a time as 10ms, 500us or 1s"


def _amount(text: str, units: Mapping[str, Fraction], hint: str) -> Fraction:
    found = _NUMBER.fullmatch(text)
    if found is None:
        raise InputError(f"'{text}' is no number with a unit", hint=hint)
    number, unit = found.groups()
    if unit not in units:
        said = f"has the unit '{unit}'" if unit else "has no unit"
        raise InputError(f"'{text}' {said}, expected one of {', '.join(name for name in units if name)}", hint=hint)
    return Fraction(number) * units[unit]


def _whole(text: str, amount: Fraction, hint: str, unit: str) -> int:
    if amount.denominator != 1 or amount <= 0:
        raise InputError(f"'{text}' is no whole number of {unit} above 0", hint=hint)
    return int(amount)
