# SPDX-License-Identifier: Apache-2.0
"""Pictures as SVG text: the Pareto front of a search, the error of each layer, a model's graph.

Plain shapes and text only: no scripts, no links, no fonts or styles from elsewhere, and every name escaped. Sizes and
places are user units (pixels at 100 %). Equal facts give equal text.
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from xml.sax.saxutils import escape

from converter.core.graph import GraphFacts, OperatorFacts
from converter.core.numerics.layer_error import layer_precision, short_name
from edgefleet.contracts.evidence import Candidate, LayerError

_FONT = "font-family=\"Helvetica, Arial, 'Liberation Sans', sans-serif\""
_INK, _FAINT, _GRID, _PAPER = "#1f2933", "#616e7c", "#e4e7eb", "#ffffff"
_FRONT, _OTHER, _CHOSEN = "#0b69a3", "#9aa5b1", "#c65d21"
#: A colour for each precision, told apart by their lightness as well; paper for what is not among them.
_COLOURS = {
    "float32": "#f6d8ae",
    "float16": "#fbe9cf",
    "dynamic-int8": "#d3ecd5",
    "dynamic-int4": "#b5dcb9",
    "int8": "#c5ddf2",
    "uint8": "#c5ddf2",
    "int16x8": "#dcd3ee",
    "int4": "#8fbfe3",
}
_CONTROL = dict.fromkeys((*range(32), *range(127, 160), 0xFFFE, 0xFFFF, *range(0xD800, 0xE000)), " ")
_KB = 1000.0


def pareto_svg(candidates: Sequence[Candidate], *, metric: str, title: str) -> str:
    """Draw what a search found: model size against the drop of the metric, each drop with its paired interval.

    Candidates are numbered by size and listed below the picture; the front is joined, the chosen one marked.
    """
    ordered = sorted(candidates, key=lambda candidate: (candidate.model_bytes, candidate.drop))
    plot = _Plot(ordered)
    height = _PLOT_BOTTOM + 78 + 20 * len(ordered)
    parts = [
        _text(_LEFT, 30, title, size=16, weight="bold"),
        _text(_LEFT, 50, f"Size of the model against the drop of {metric}: lower left is better", colour=_FAINT),
        *plot.axes(metric),
        *_front_line(plot, ordered),
        *(part for candidate in sorted(ordered, key=lambda one: one.chosen) for part in plot.point(candidate)),
        *plot.numbers(ordered),
        *_candidate_list(ordered),
    ]
    return _document(_WIDTH, height, parts, description=f"{title}: {len(ordered)} candidates")


def layers_svg(layers: Sequence[LayerError], *, title: str) -> str:
    """Draw each layer's ratio of signal to quantization noise as a bar, the worst first."""
    start, longest, row_height, top = 340.0, 380.0, 24.0, 92.0
    widest = max([10.0, *(layer.sqnr_db for layer in layers)])
    parts = [
        _text(_LEFT_EDGE, 30, title, size=16, weight="bold"),
        _text(
            _LEFT_EDGE,
            50,
            "Signal to quantization noise of each layer in dB, worst first: longer is better",
            colour=_FAINT,
        ),
        _text(start - 10, 78, "layer", anchor="end", colour=_FAINT, size=11),
        _text(start, 78, "SQNR", colour=_FAINT, size=11),
        _text(start + longest + 130, 78, "cosine", anchor="end", colour=_FAINT, size=11),
    ]
    for place, layer in enumerate(layers):
        y = top + place * row_height
        length = longest * max(0.0, layer.sqnr_db) / widest
        parts += [
            _text(start - 10, y + 13, short_name(layer.layer), anchor="end", size=12),
            _rectangle(start, y, max(length, 1.0), row_height - 6, fill=_COLOURS.get(layer.precision, _GRID)),
            _text(start + length + 6, y + 13, f"{layer.sqnr_db:.1f}", size=12),
            _text(start + longest + 130, y + 13, f"{layer.cosine:.5f}", anchor="end", size=12),
            _text(start + longest + 146, y + 13, f"{layer.operator}, {layer.precision}", size=11, colour=_FAINT),
        ]
    height = top + len(layers) * row_height + 20
    return _document(_LAYERS_WIDTH, height, parts, description=f"{title}: {len(layers)} layers")


def graph_svg(facts: GraphFacts, *, title: str) -> str:
    """Draw a model's operators in the order of execution, with shapes, sizes of weights and precisions.

    Data flows down; what skips operators runs along the left side. A box's bar shows its weights beside the heaviest.
    """
    boxes = _boxes(facts)
    constants = sum(tensor.constant_bytes for tensor in facts.tensors)
    skips = _skips(facts)
    margin = 40.0 + 16.0 * len({lane for *_, lane in skips})
    parts = [
        _text(20, 30, title, size=16, weight="bold"),
        _text(20, 50, f"{facts.size_bytes:,} bytes, {constants:,} of them weights and constants; "
              f"{len(facts.operators)} operators", colour=_FAINT),
        *_legend(sorted({box.precision for box in boxes if box.precision in _COLOURS})),
    ]  # fmt: skip
    heaviest = max([1, *(box.weight_bytes for box in boxes)])
    for place, box in enumerate(boxes):
        parts += _box_parts(box, x=margin, y=_row(place), heaviest=heaviest, arrow=place > 0 and box.follows)
    parts += [_skip_line(margin, first, last, lane) for first, last, lane in skips]
    return _document(
        margin + _BOX_WIDTH + 30, _row(len(boxes)) + 10, parts, description=f"{title}: {len(boxes)} operators in order"
    )


# The Pareto front: a plot of a fixed size, its list below.

_WIDTH, _LEFT, _RIGHT, _PLOT_TOP, _PLOT_BOTTOM = 760.0, 84.0, 730.0, 84.0, 400.0
#: Numbers of candidates that are closer than this stand one above the other.
_NUMBER_WIDTH, _NUMBER_HEIGHT = 15.0, 12.0
_LEFT_EDGE, _LAYERS_WIDTH = 20.0, 1080.0


class _Plot:
    """Where sizes and drops lie on the paper."""

    def __init__(self, candidates: Sequence[Candidate]) -> None:
        self._x = _axis([candidate.model_bytes / _KB for candidate in candidates])
        edges = [edge for c in candidates for edge in (c.interval.low, c.interval.high, c.drop)]
        self._y = _axis([*edges, 0.0])

    def x(self, model_bytes: float) -> float:
        low, high = self._x[0], self._x[-1]
        return _LEFT + (_RIGHT - _LEFT) * (model_bytes / _KB - low) / (high - low)

    def y(self, drop: float) -> float:
        low, high = self._y[0], self._y[-1]
        return _PLOT_BOTTOM - (_PLOT_BOTTOM - _PLOT_TOP) * (drop - low) / (high - low)

    def axes(self, metric: str) -> list[str]:
        parts = []
        for tick in self._y:
            y = self.y(tick)
            parts.append(_line(_LEFT, y, _RIGHT, y, colour=_INK if tick == 0 else _GRID))
            parts.append(_text(_LEFT - 8, y + 4, _number(tick), anchor="end", size=11, colour=_FAINT))
        for tick in self._x:
            x = self.x(tick * _KB)
            parts.append(_line(x, _PLOT_BOTTOM, x, _PLOT_BOTTOM + 5, colour=_FAINT))
            parts.append(_text(x, _PLOT_BOTTOM + 19, _number(tick), anchor="middle", size=11, colour=_FAINT))
        middle = (_PLOT_TOP + _PLOT_BOTTOM) / 2
        parts.append(_text((_LEFT + _RIGHT) / 2, _PLOT_BOTTOM + 38, "model, kB (1000 bytes)", anchor="middle"))
        parts.append(_text(22, middle, f"drop of {metric}", anchor="middle", turn=(-90, 22, middle)))
        return parts

    def point(self, candidate: Candidate) -> list[str]:
        x, y = self.x(candidate.model_bytes), self.y(candidate.drop)
        low, high = self.y(candidate.interval.low), self.y(candidate.interval.high)
        colour = _colour(candidate)
        return [
            _line(x, low, x, high, colour=colour),
            *(_line(x - 4, end, x + 4, end, colour=colour) for end in (low, high)),
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{7 if candidate.chosen else 5}" fill="{colour}"/>',
        ]

    def numbers(self, candidates: Sequence[Candidate]) -> list[str]:
        """Write each candidate's number above its interval, and above its neighbours' where they are close."""
        placed: list[tuple[float, float]] = []
        parts = []
        for number, candidate in enumerate(candidates, start=1):
            x, y = self.x(candidate.model_bytes), self.y(candidate.interval.high) - 5.0
            while any(abs(x - u) < _NUMBER_WIDTH and abs(y - v) < _NUMBER_HEIGHT for u, v in placed):
                y -= _NUMBER_HEIGHT
            placed.append((x, y))
            parts.append(
                _text(x, y, str(number), size=11, weight="bold", anchor="middle", colour=_colour(candidate), halo=True)
            )
        return parts


def _front_line(plot: _Plot, candidates: Sequence[Candidate]) -> list[str]:
    front = [candidate for candidate in candidates if candidate.on_front]
    if len(front) < 2:
        return []
    places = [(plot.x(c.model_bytes), plot.y(c.drop)) for c in front]
    steps = [f"{places[0][0]:.1f},{places[0][1]:.1f}"]
    for (_, y0), (x1, y1) in pairwise(places):
        steps += [f"{x1:.1f},{y0:.1f}", f"{x1:.1f},{y1:.1f}"]
    return [f'<polyline points="{" ".join(steps)}" fill="none" stroke="{_FRONT}" stroke-width="1.5" opacity="0.6"/>']


def _candidate_list(candidates: Sequence[Candidate]) -> list[str]:
    parts = []
    for number, candidate in enumerate(candidates, start=1):
        y = _PLOT_BOTTOM + 66 + 20 * (number - 1)
        kind = "chosen" if candidate.chosen else "on the front" if candidate.on_front else ""
        interval = candidate.interval
        parts += [
            f'<circle cx="{_LEFT - 50:.1f}" cy="{y - 4:.1f}" r="5" fill="{_colour(candidate)}"/>',
            _text(_LEFT - 24, y, str(number), size=12, weight="bold", anchor="end"),
            _text(_LEFT - 12, y, _cut(candidate.title, 44), size=12),
            _text(470, y, f"{candidate.model_bytes:,} B", size=12, anchor="end"),
            _text(640, y, f"{candidate.drop:+.4f} [{interval.low:+.4f}, {interval.high:+.4f}]", size=12, anchor="end"),
            _text(655, y, kind, size=12, colour=_colour(candidate)),
        ]
    return parts


def _colour(candidate: Candidate) -> str:
    return _CHOSEN if candidate.chosen else _FRONT if candidate.on_front else _OTHER


def _axis(values: Sequence[float]) -> list[float]:
    """Return round ticks that enclose the values."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    room = (high - low) * 0.05 or abs(high) * 0.05 or 1.0
    low, high = low - room, high + room
    raw = (high - low) / 5.0
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1.0, 2.0, 5.0, 10.0) if factor * size >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    if min(values, default=0.0) >= 0.0:
        first = max(first, 0)
    return [place * step for place in range(first, last + 1)]


def _number(value: float) -> str:
    return f"{value:,.6g}" if abs(value) >= 1e-9 else "0"


# The graph: one box an operator, one below the other.

_BOX_WIDTH, _BOX_HEIGHT, _STEP, _GRAPH_TOP = 460.0, 42.0, 60.0, 96.0


class _Box:
    """What a box of the graph says."""

    def __init__(self, operator: OperatorFacts, facts: GraphFacts, previous: frozenset[int]) -> None:
        output = facts.tensors[operator.outputs[0]] if operator.outputs else None
        self.name = operator.name
        self.precision = layer_precision(operator, facts) if output else ""
        self.shape = "×".join(map(str, output.shape)) or "scalar" if output else ""
        self.layer = short_name(output.name) if output else ""
        self.weight_bytes = sum(facts.tensors[n].constant_bytes for n in set(operator.inputs) if n >= 0)
        self.follows = bool(previous & set(operator.inputs))


def _boxes(facts: GraphFacts) -> list[_Box]:
    before = [frozenset(facts.inputs), *(frozenset(operator.outputs) for operator in facts.operators)]
    return [_Box(operator, facts, previous) for operator, previous in zip(facts.operators, before, strict=False)]


def _row(place: int) -> float:
    return _GRAPH_TOP + place * _STEP


def _box_parts(box: _Box, *, x: float, y: float, heaviest: int, arrow: bool) -> list[str]:
    share = (_BOX_WIDTH - 2) * box.weight_bytes / heaviest
    weights = f"{box.weight_bytes:,} B" if box.weight_bytes else ""
    parts = [
        _rectangle(x, y, _BOX_WIDTH, _BOX_HEIGHT, fill=_COLOURS.get(box.precision, _PAPER), stroke=_FAINT),
        _rectangle(x + 1, y + _BOX_HEIGHT - 5, share, 4, fill=_FAINT) if box.weight_bytes else "",
        _text(x + 10, y + 17, box.name, size=13, weight="bold"),
        _text(x + 10, y + 33, box.layer, size=11, colour=_FAINT),
        _text(x + _BOX_WIDTH - 10, y + 17, f"{box.shape}  {box.precision}", size=12, anchor="end"),
        _text(x + _BOX_WIDTH - 10, y + 33, weights, size=11, anchor="end", colour=_FAINT),
    ]
    if arrow:
        middle = x + _BOX_WIDTH / 2
        parts.append(_line(middle, y - (_STEP - _BOX_HEIGHT), middle, y - 5, colour=_FAINT))
        parts.append(_arrow_head(middle, y, 0.0))
    return [part for part in parts if part]


def _skips(facts: GraphFacts) -> list[tuple[int, int, int]]:
    """Return (from, to, lane) of values that are read further on than by the next operator; -1 is the model's input.

    Lanes are counted from the boxes outwards, and two that overlap never share one.
    """
    made = dict.fromkeys(facts.inputs, -1)
    found: list[tuple[int, int]] = []
    for place, operator in enumerate(facts.operators):
        for number in dict.fromkeys(operator.inputs):
            if made.get(number, place) < place - 1:
                found.append((made[number], place))
        made.update(dict.fromkeys(operator.outputs, place))
    lanes: list[list[tuple[int, int]]] = []
    placed = []
    for first, last in sorted(set(found), key=lambda skip: (skip[1] - skip[0], skip)):
        lane = next((n for n, taken in enumerate(lanes) if all(last <= a or b <= first for a, b in taken)), len(lanes))
        if lane == len(lanes):
            lanes.append([])
        lanes[lane].append((first, last))
        placed.append((first, last, lane))
    return placed


def _skip_line(margin: float, first: int, last: int, lane: int) -> str:
    x = margin - 18.0 - 16.0 * lane
    start = _row(first) + _BOX_HEIGHT * 0.7 if first >= 0 else _GRAPH_TOP - 10
    end = _row(last) + _BOX_HEIGHT * 0.3
    path = f"M {margin:.1f} {start:.1f} H {x:.1f} V {end:.1f} H {margin - 5:.1f}"
    line = f'<path d="{path}" fill="none" stroke="{_FRONT}" stroke-width="1.3"/>'
    return line + _arrow_head(margin, end, -90.0)


def _legend(precisions: Iterable[str]) -> list[str]:
    parts, x = [], 20.0
    for precision in precisions:
        parts.append(_rectangle(x, 62, 14, 14, fill=_COLOURS[precision], stroke=_FAINT))
        parts.append(_text(x + 20, 73, precision, size=12))
        x += 40.0 + 7.5 * len(precision)
    return parts


# The pieces that all pictures are made of.


def _document(width: float, height: float, parts: Sequence[str], *, description: str) -> str:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" {_FONT}>'
    )
    paper = f'<rect width="100%" height="100%" fill="{_PAPER}"/>'
    return "\n".join([head, f"<title>{_safe(description)}</title>", paper, *parts, "</svg>"]) + "\n"


def _text(
    x: float,
    y: float,
    said: str,
    *,
    size: int = 13,
    colour: str = _INK,
    anchor: str = "start",
    weight: str = "normal",
    turn: tuple[float, float, float] | None = None,
    halo: bool = False,
) -> str:
    around = f' stroke="{_PAPER}" stroke-width="3" paint-order="stroke"' if halo else ""
    turned = "" if turn is None else f' transform="rotate({turn[0]:.0f} {turn[1]:.1f} {turn[2]:.1f})"'
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}" text-anchor="{anchor}" '
        f'fill="{colour}"{turned}{around}>{_safe(said)}</text>'
    )


def _rectangle(x: float, y: float, width: float, height: float, *, fill: str, stroke: str = "none") -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3" '
        f'fill="{fill}" stroke="{stroke}"/>'
    )


def _line(x0: float, y0: float, x1: float, y1: float, *, colour: str) -> str:
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{colour}"/>'


def _arrow_head(x: float, y: float, turn: float) -> str:
    return (
        f'<path d="M {x - 4:.1f} {y - 7:.1f} H {x + 4:.1f} L {x:.1f} {y:.1f} Z" fill="{_FAINT}" '
        f'transform="rotate({turn:.0f} {x:.1f} {y:.1f})"/>'
    )


def _safe(said: str) -> str:
    """Return text that no reader of XML takes for anything else; what XML cannot hold becomes a space."""
    return escape(said.translate(_CONTROL))


def _cut(said: str, length: int) -> str:
    return said if len(said) <= length else said[: length - 1] + "…"
