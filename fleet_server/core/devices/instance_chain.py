# SPDX-License-Identifier: Apache-2.0
"""Whether one device holds an identity, or a copy of it lives beside the original.

Each check-in brings the token of the one before and gets the next: tokens are numbered in the order of their issue.
A device has one memory, and it holds one token. Where it presents an older one than the newest, the newer ones are
*forsaken*: an answer was lost, or the device's memory was put back to an earlier time. It does not have them any more,
and no way leads back to them. Whoever presents a forsaken token is therefore another holder of this identity, which
has lived on from the time before: a fork, with certainty. Reboots, lost answers, power cuts before a token was stored
and a restored memory all end on the other side of that line.

A server that was restored itself meets tokens that are newer than it knows: it goes on from there.
"""

from typing import Literal, NamedTuple

#: Ranges of forsaken tokens that are kept; forgetting the oldest can only miss a fork, never invent one.
_RANGES = 64
Finding = Literal["follows", "resumed", "forked"]


class InstanceChain(NamedTuple):
    """The newest token's number, and ranges of forsaken ones (first, last), in order and apart."""

    head: int = 0
    forsaken: tuple[tuple[int, int], ...] = ()


def present(chain: InstanceChain, number: int) -> tuple[InstanceChain, Finding]:
    """Return the chain after a token was presented, and what that says; the next token is the new head's.

    ``number`` is 0 for a device that has no token (yet, or any more).
    """
    if number >= chain.head:
        return InstanceChain(number + 1, chain.forsaken), "follows"
    forked = any(first <= number <= last for first, last in chain.forsaken)
    ranges = _with_range(chain.forsaken, number + 1, chain.head)
    return InstanceChain(chain.head + 1, ranges), "forked" if forked else "resumed"


def _with_range(ranges: tuple[tuple[int, int], ...], first: int, last: int) -> tuple[tuple[int, int], ...]:
    """Add a range that ends behind all others; those that it touches become one with it."""
    apart = [(a, b) for a, b in ranges if b < first - 1]
    touched = [a for a, b in ranges if b >= first - 1]
    return (*apart, (min([first, *touched]), last))[-_RANGES:]
