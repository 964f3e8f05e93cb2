# SPDX-License-Identifier: Apache-2.0
"""The candidates of a search as a table in Markdown: what the Pareto picture shows, to read and to copy."""

from collections.abc import Sequence

from edgefleet.contracts.evidence import Candidate, Interval

_HEAD = "| # | candidate | model, bytes | arena, bytes | latency, µs | drop | interval | |"
_RULE = "|--:|---|--:|--:|--:|--:|---|---|"
_ABSENT = "–"


def pareto_table(candidates: Sequence[Candidate], *, metric: str, title: str) -> str:
    """Return a page with one row a candidate, the smallest first, numbered as in the picture.

    A drop is float minus candidate of the metric, on samples that decided nothing, with its paired interval.
    """
    ordered = sorted(candidates, key=lambda candidate: (candidate.model_bytes, candidate.drop))
    methods = dict.fromkeys(_method(candidate.interval) for candidate in ordered)
    return "\n".join(
        [
            f"# {_cell(title)}: what the search found",
            "",
            f"Drop of {_cell(metric)} from the float model, on samples that decided nothing before one was chosen. "
            f"Intervals: {'; '.join(methods)}. Recipes by their SHA-256 are in the evidence.",
            "",
            _HEAD,
            _RULE,
            *(_row(number, candidate) for number, candidate in enumerate(ordered, start=1)),
            "",
        ]
    )


def _row(number: int, candidate: Candidate) -> str:
    interval = candidate.interval
    cells = (
        str(number),
        _cell(candidate.title),
        f"{candidate.model_bytes:,}",
        _ABSENT if candidate.arena_bytes is None else f"{candidate.arena_bytes:,}",
        _ABSENT if candidate.latency_us is None else f"{candidate.latency_us:,.0f}",
        f"{candidate.drop:+.4f}",
        f"[{interval.low:+.4f}, {interval.high:+.4f}]",
        "**chosen**" if candidate.chosen else "on the front" if candidate.on_front else "",
    )
    return f"| {' | '.join(cells)} |"


def _method(interval: Interval) -> str:
    return f"{100.0 * interval.level:g} %, {_cell(interval.method)}"


def _cell(text: str) -> str:
    """Return text that stays in its cell and is no markup: names come from a model."""
    printable = "".join(letter if letter.isprintable() else " " for letter in text)
    return "".join(f"\\{letter}" if letter in "\\|`*_[]<>#" else letter for letter in printable)
