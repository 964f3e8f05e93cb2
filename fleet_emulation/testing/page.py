# SPDX-License-Identifier: Apache-2.0
"""The figures of a test run as one HTML page: it loads nothing, and reads without colours or a mouse."""

from collections.abc import Sequence
from html import escape

from fleet_emulation.testing.measured import FIGURES, Change, Comparison, Row

_STYLE = """\
:root {
  color-scheme: light dark;
  --ground: #f4f6f7; --card: #ffffff; --ink: #1a2328; --quiet: #55636b; --line: #d5dde1; --bar: #0b5c73;
  --good: #13653a; --good-ground: #dff3e6; --wait: #7a4d00; --wait-ground: #fff0d1;
  --bad: #a01c1c; --bad-ground: #fde3e1; --plain-ground: #e8edf0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #12181b; --card: #1b2327; --ink: #e6edf0; --quiet: #a3b1b8; --line: #34414a; --bar: #62c5e0;
    --good: #83dca6; --good-ground: #173824; --wait: #f3c877; --wait-ground: #3b2f14;
    --bad: #ff9d97; --bad-ground: #451b1b; --plain-ground: #29343a;
  }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
header { padding: .75rem 1.5rem; background: var(--card); border-bottom: 1px solid var(--line); }
h1 { font-size: 1.25rem; margin: 0; }
main { max-width: 75rem; margin: 0 auto; padding: 1.5rem; display: grid; gap: 1.5rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: .6rem; padding: 1.25rem;
  min-width: 0; }
h2 { margin: 0 0 .25rem; font-size: 1.1rem; }
p { margin: .25rem 0; color: var(--quiet); }
.scroll { overflow-x: auto; }
table { width: 100%; border-collapse: collapse; font-size: .92rem; margin-top: .5rem; }
caption { text-align: left; color: var(--quiet); padding: .5rem 0; }
th, td { text-align: left; padding: .4rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th { color: var(--quiet); font-weight: 600; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
td.chart { width: 40%; min-width: 9rem; }
svg { display: block; width: 100%; height: 1.4rem; }
rect.stored { fill: var(--quiet); } rect.now { fill: var(--bar); }
.pill { display: inline-block; padding: .1rem .6rem; border-radius: 1rem; font-size: .85rem;
  background: var(--plain-ground); color: var(--ink); }
.pill.better, .pill.same { background: var(--good-ground); color: var(--good); }
.pill.other-key, .pill.within-tolerance { background: var(--wait-ground); color: var(--wait); }
.pill.worse { background: var(--bad-ground); color: var(--bad); }
"""
_VERDICTS = {
    "same": "as stored",
    "better": "costs less",
    "within-tolerance": "within tolerance",
    "worse": "costs more",
    "other-key": "not compared",
    "updated": "stored anew",
}
_FULL_WIDTH = 100.0


def page_text(rows: Sequence[Row]) -> str:
    """Return the page for the programs and boards of a run."""
    sections = "\n".join(_section(row, number) for number, row in enumerate(rows))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>EdgeFleet: what models cost on emulated boards</title>
<style>
{_STYLE}</style>
</head>
<body>
<header><h1>What models cost on emulated boards</h1></header>
<main>
{sections}
</main>
</body>
</html>
"""


def _section(row: Row, number: int) -> str:
    pills = "".join(_pill(told) for told in row.comparisons)
    sentences = "".join(
        f"<p>{escape(told.name)}: {escape(told.sentence)}</p>" for told in row.comparisons if told.sentence
    )
    changes = {change.figure: change for told in row.comparisons for change in told.changes}
    compared = any(told.verdict in ("same", "better", "within-tolerance", "worse") for told in row.comparisons)
    lines = "\n".join(
        _line(words, row.figures[figure], changes.get(figure), compared=compared)
        for figure, words in FIGURES.items()
        if figure in row.figures
    )
    return f"""<section aria-labelledby="row-{number}">
<h2 id="row-{number}">{escape(row.label)} {pills}</h2>
<p>{escape(_built(row))}</p>
{sentences}<div class="scroll" role="region" aria-labelledby="row-{number}" tabindex="0"><table>
<caption>Counts are of one inference, the most expensive one. Tests: {escape(", ".join(row.tests))}</caption>
<thead><tr><th scope="col">figure</th><th scope="col">now</th><th scope="col">stored</th><th scope="col">change</th>
<th scope="col">stored above, now below</th></tr></thead>
<tbody>
{lines}
</tbody>
</table></div>
</section>"""


def _built(row: Row) -> str:
    what = {"static": "everything constant", "updatable": "updatable", "sources": "sources of its own"}[
        row.origin.build
    ]
    numerics = f", numerics {row.origin.numerics}" if row.origin.numerics else ""
    return f"{row.key} with {row.key.flags}, {what}{numerics}"


def _pill(told: Comparison) -> str:
    return f'<span class="pill {told.verdict}">{escape(told.name)}: {_VERDICTS[told.verdict]}</span> '


def _line(words: str, now: int, change: Change | None, *, compared: bool) -> str:
    stored = change.before if change is not None else (now if compared else None)
    percent = f"{change.percent:+.2f} %" if change is not None else ("none" if compared else "–")
    return (
        f'<tr><th scope="row">{escape(words)}</th><td class="number">{now:,}</td>'
        f'<td class="number">{"–" if stored is None else f"{stored:,}"}</td><td class="number">{percent}</td>'
        f'<td class="chart">{_bars(now, stored)}</td></tr>'
    )


def _bars(now: int, stored: int | None) -> str:
    """Return two bars to one scale; they repeat the numbers beside them, so a screen reader need not see them."""
    most = max(now, stored or 0, 1)
    bars = [] if stored is None else [_bar("stored", stored / most, 1)]
    return (
        f'<svg viewBox="0 0 {_FULL_WIDTH:.0f} 10" preserveAspectRatio="none" aria-hidden="true">'
        + "".join([*bars, _bar("now", now / most, 5 if bars else 3)])
        + "</svg>"
    )


def _bar(kind: str, share: float, top: int) -> str:
    return f'<rect class="{kind}" x="0" y="{top}" width="{share * _FULL_WIDTH:.2f}" height="4"/>'
