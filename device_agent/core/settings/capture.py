# SPDX-License-Identifier: Apache-2.0
"""Which inputs may be captured: a share of those the model was unsure of, within a day's budget and the disk's."""

from typing import NamedTuple

DAY_S = 86_400.0


class Budget(NamedTuple):
    """What was kept since a day began (monotonic seconds)."""

    day_began_s: float
    kept_bytes: int


def admitted(budget: Budget, size_bytes: int, now_s: float, *, bytes_per_day: int) -> Budget | None:
    """Return the budget after one more sample, None where the day has no room for it."""
    if now_s - budget.day_began_s >= DAY_S:
        budget = Budget(now_s, 0)
    if budget.kept_bytes + size_bytes > bytes_per_day:
        return None
    return Budget(budget.day_began_s, budget.kept_bytes + size_bytes)
