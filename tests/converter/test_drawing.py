# SPDX-License-Identifier: Apache-2.0
"""Pictures are well-formed, hold what they are to show in the right place, and nothing that acts."""

import xml.etree.ElementTree as ElementTree
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converter.adapters.flatbuffers.reading import read_facts
from converter.core.graph import GraphFacts, OperatorFacts, TensorFacts
from converter.core.reports.drawing import graph_svg, layers_svg, pareto_svg
from converter.core.reports.pareto_table import pareto_table
from edgefleet.contracts.evidence import Candidate, Interval, LayerError

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
SVG = "{http://www.w3.org/2000/svg}"


def candidate(title: str, model_bytes: int, drop: float, *, on_front: bool = False, chosen: bool = False) -> Candidate:
    return Candidate(
        title=title, recipe_sha256="0" * 64, model_bytes=model_bytes, drop=drop,
        interval=Interval(low=drop - 0.01, high=drop + 0.01, level=0.95, method="paired"),
        on_front=on_front, chosen=chosen,
    )  # fmt: skip


def layer(name: str, sqnr_db: float) -> LayerError:
    return LayerError(layer=name, operator="CONV_2D", precision="int8", sqnr_db=sqnr_db, cosine=0.99)


def parsed(svg: str) -> ElementTree.Element:
    return ElementTree.fromstring(svg)  # noqa: S314  # our own


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in parsed(svg).iter(f"{SVG}text")]


def circles(svg: str) -> list[ElementTree.Element]:
    return list(parsed(svg).iter(f"{SVG}circle"))


CANDIDATES = [
    candidate("float32", 800_000, 0.0),
    candidate("int8", 200_000, 0.002, on_front=True, chosen=True),
    candidate("int4", 100_000, 0.03, on_front=True),
]


def test_the_pareto_picture_lists_every_candidate_by_size_with_its_interval() -> None:
    found = texts(pareto_svg(CANDIDATES, metric="accuracy", title="person 1.0.0"))
    titles = [said for said in found if said in ("float32", "int8", "int4")]
    assert titles == ["int4", "int8", "float32"]
    assert "200,000 B" in found
    assert "+0.0020 [-0.0080, +0.0120]" in found
    assert [said for said in found if said in ("chosen", "on the front")] == ["on the front", "chosen"]


def test_a_smaller_model_lies_further_left_and_a_larger_drop_higher() -> None:
    points = circles(pareto_svg(CANDIDATES, metric="accuracy", title="t"))[:3]
    placed = sorted((float(p.get("cx", "nan")), float(p.get("cy", "nan")), p.get("r")) for p in points)
    assert [radius for *_, radius in placed] == ["5", "7", "5"]  # int4, int8 (chosen), float32
    heights = [y for _, y, _ in placed]
    assert heights == sorted(heights)  # int4 drops most, and y grows downwards
    assert points[-1].get("r") == "7", "the chosen one lies on top"


def test_numbers_of_neighbours_stand_apart() -> None:
    crowd = [candidate(f"c{n}", 100_000 + 50 * n, 0.001 * (n % 2)) for n in range(6)]
    svg = pareto_svg(crowd, metric="accuracy", title="t")
    numbers = [e for e in parsed(svg).iter(f"{SVG}text") if e.get("paint-order") == "stroke"]
    places = [(float(e.get("x", "nan")), float(e.get("y", "nan"))) for e in numbers]
    assert [e.text for e in numbers] == ["1", "2", "3", "4", "5", "6"]
    for (x, y), (u, v) in combinations(places, 2):
        assert abs(x - u) >= 10 or abs(y - v) >= 11


def test_the_table_has_a_row_for_each_candidate_and_no_markup_of_a_models_own() -> None:
    hostile = candidate("a | b\n<img> *c*", 9, 0.5, on_front=True)
    assert pareto_table([*CANDIDATES, hostile], metric="accuracy", title="person 1.0.0").splitlines()[2:] == [
        "Drop of accuracy from the float model, on samples that decided nothing before one was chosen. "
        "Intervals: 95 %, paired. Recipes by their SHA-256 are in the evidence.",
        "",
        "| # | candidate | model, bytes | arena, bytes | latency, µs | drop | interval | |",
        "|--:|---|--:|--:|--:|--:|---|---|",
        r"| 1 | a \| b \<img\> \*c\* | 9 | – | – | +0.5000 | [+0.4900, +0.5100] | on the front |",
        "| 2 | int4 | 100,000 | – | – | +0.0300 | [+0.0200, +0.0400] | on the front |",
        "| 3 | int8 | 200,000 | – | – | +0.0020 | [-0.0080, +0.0120] | **chosen** |",
        "| 4 | float32 | 800,000 | – | – | +0.0000 | [-0.0100, +0.0100] |  |",
    ]


def test_one_candidate_alone_can_be_drawn() -> None:
    assert len(circles(pareto_svg([candidate("only", 0, 0.0)], metric="auc", title="t"))) == 2


def test_the_bars_of_layers_grow_with_their_ratio() -> None:
    svg = layers_svg([layer("bad", -3.0), layer("good", 20.0), layer("better", 40.0)], title="t")
    bars = [float(e.get("width", "nan")) for e in list(parsed(svg).iter(f"{SVG}rect"))[1:]]
    assert bars == [1.0, 190.0, 380.0]
    assert [said for said in texts(svg) if said in ("bad", "good", "better")] == ["bad", "good", "better"]


def test_the_graph_shows_each_operator_with_shape_precision_and_weights() -> None:
    facts = read_facts((DIGITS / "v1_float32.tflite").read_bytes())
    found = texts(graph_svg(facts, title="digits"))
    assert [said for said in found if said in facts.operator_names()] == [o.name for o in facts.operators]
    assert "1×10  float32" in found
    assert f"{facts.size_bytes:,} bytes, " in " ".join(found)


def test_what_skips_operators_runs_beside_them_in_lanes_of_its_own() -> None:
    tensor = TensorFacts("t", (1,), "float32", 0)
    operators = (
        OperatorFacts("RELU", 1, (0,), (1,)),
        OperatorFacts("TANH", 1, (1,), (2,)),
        OperatorFacts("ADD", 1, (1, 2), (3,)),
        OperatorFacts("MUL", 1, (3, 0), (4,)),
    )
    svg = graph_svg(GraphFacts(operators, (tensor,) * 5, (0,), (4,), 1, 10, None), title="t")
    paths = [e.get("d", "") for e in parsed(svg).iter(f"{SVG}path") if e.get("fill") == "none"]
    lanes = {path.split(" H ")[1].split()[0] for path in paths}
    assert (len(paths), len(lanes)) == (2, 2)


@pytest.mark.parametrize("hostile", ["</text><script>alert(1)</script>", "a\"b'c&d<e>", "\0\x1b[31m\ud800", "]]>"])
def test_a_name_is_never_more_than_text(hostile: str) -> None:
    facts = GraphFacts(
        (OperatorFacts(hostile, 1, (0,), (1,)),),
        (TensorFacts(hostile, (1,), "int8", 0), TensorFacts(hostile, (1,), hostile, 3)), (0,), (1,), 1, 10, None,
    )  # fmt: skip
    for svg in (
        graph_svg(facts, title=hostile),
        layers_svg([layer(hostile, 1.0)], title=hostile),
        pareto_svg([candidate(hostile, 1, 0.0)], metric=hostile, title=hostile),
    ):
        svg.encode()
        tags = {element.tag.removeprefix(SVG) for element in parsed(svg).iter()}
        assert tags <= {"svg", "title", "rect", "text", "line", "path", "circle", "polyline"}


@settings(suppress_health_check=[HealthCheck.too_slow])  # a busy machine is not what is tested
@given(
    sizes=st.lists(st.integers(0, 10**9), min_size=1, max_size=8),
    drop=st.floats(-1e6, 1e6, allow_nan=False),
)
def test_every_point_lies_on_the_paper(sizes: list[int], drop: float) -> None:
    drawn = [candidate("c", size, drop * place) for place, size in enumerate(sizes)]
    for point in circles(pareto_svg(drawn, metric="m", title="t")):
        assert 0 <= float(point.get("cx", "nan")) <= 760
        assert float(point.get("cy", "nan")) >= 0
