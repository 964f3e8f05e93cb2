# SPDX-License-Identifier: Apache-2.0
"""Operator versions and the minimum runtime are what TensorFlow's own tables say, for every kind of quantization."""

from itertools import pairwise
from pathlib import Path

import pytest
from ai_edge_quantizer import quantizer, recipe
from hypothesis import given
from hypothesis import strategies as st

from converter.adapters.flatbuffers.reading import read_facts, with_versions_written
from converter.core.board.checks import check_board, needed_runtime, outdated_operators
from converter.core.board.operator_releases import AFTER_ALL_KNOWN, RELEASES, release_of
from converter.core.board.operator_versions import is_older, minimum_runtime_version
from edgefleet.contracts.errors import UnsupportedModelError
from edgefleet.contracts.profile import Profile, RuntimeFacts
from firmware_profiles import load_profile

MODEL = Path(__file__).resolve().parents[2] / "examples" / "digits" / "v1_float32.tflite"
Versions = dict[str, int]


def quantized(name: str) -> bytes:
    worker = quantizer.Quantizer(MODEL.read_bytes(), getattr(recipe, name)())
    return bytes(worker.quantize(enable_progress_report=False).quantized_model)


def versions(model: bytes) -> Versions:
    return {operator.name: operator.version for operator in read_facts(model).operators}


def board_with_tflite(version: str) -> Profile:
    board = load_profile("linux-x86_64")
    facts = RuntimeFacts(kind="tflite-runtime", version=version, numerics="litert/1")
    return Profile(**{**{f: getattr(board, f) for f in board.__struct_fields__}, "runtime": facts,
                      "precisions": ("int8", "dynamic-int8", "float32")})  # fmt: skip


@pytest.mark.parametrize(
    ("how", "written", "runtime"),
    [
        ("dynamic_wi8_afp32", {"CONV_2D": 5, "FULLY_CONNECTED": 12}, "2.17.0"),
        ("dynamic_wi4_afp32", {"FULLY_CONNECTED": 12}, "2.17.0"),
        ("weight_only_wi8_afp32", {"DEQUANTIZE": 5, "CONV_2D": 1, "FULLY_CONNECTED": 1}, "2.7.0"),
    ],
)
def test_versions_follow_from_the_types(how: str, written: Versions, runtime: str) -> None:
    raw = quantized(how)
    right = with_versions_written(raw)
    assert {name: versions(right)[name] for name in written} == written
    facts = read_facts(right)
    assert (facts.minimum_runtime_version, needed_runtime(facts), outdated_operators(facts)) == (runtime, runtime, ())


def test_a_model_that_understates_its_versions_is_noticed() -> None:
    assert outdated_operators(read_facts(quantized("dynamic_wi8_afp32"))) == ("CONV_2D", "FULLY_CONNECTED")


def test_a_float_model_keeps_its_versions() -> None:
    assert versions(with_versions_written(MODEL.read_bytes())) == versions(MODEL.read_bytes())


def test_static_int8_has_the_versions_that_tensorflow_writes(shared_dir: Path) -> None:
    for name in ("vww_int8", "ic_resnet8_int8", "kws_int8", "ad_int8"):
        made_by_tensorflow = read_facts((shared_dir / "models" / f"{name}.tflite").read_bytes())
        assert outdated_operators(made_by_tensorflow) == ()


def test_an_old_runtime_is_refused_a_model_that_it_would_not_load() -> None:
    facts = read_facts(with_versions_written(quantized("dynamic_wi8_afp32")))
    with pytest.raises(UnsupportedModelError) as caught:
        check_board(facts, board_with_tflite("2.14.0"))
    assert (caught.value.message, caught.value.hint) == (
        "FULLY_CONNECTED is needed in version 12, which came with TFLite 2.17.0; "
        "profile 'linux-x86_64' has tflite-runtime 2.14.0",
        "what would work: int8 weights per tensor under float32 activations",
    )


def test_an_understated_version_is_refused_where_the_runtime_lacks_what_the_types_need() -> None:
    facts = read_facts(quantized("dynamic_wi8_afp32"))
    assert {operator.version for operator in facts.operators} == {1}
    with pytest.raises(UnsupportedModelError) as caught:
        check_board(facts, board_with_tflite("2.14.0"))
    assert caught.value.message == (
        "FULLY_CONNECTED is needed in version 12, which came with TFLite 2.17.0; "
        "profile 'linux-x86_64' has tflite-runtime 2.14.0"
    )
    check_board(facts, board_with_tflite("2.19.0"))  # kernels go by the types, a version only opens the door


def test_the_minimum_runtime_is_the_newest_of_all_operators() -> None:
    assert minimum_runtime_version({"CONV_2D": 3, "FULLY_CONNECTED": 12}) == "2.17.0"
    assert minimum_runtime_version({}) == "1.5.0"


@pytest.mark.parametrize(("operator", "version"), [("UNHEARD_OF", 1), ("DEQUANTIZE", 9), ("CONV_2D", 99)])
def test_what_the_table_does_not_know_is_newer_than_all_that_it_knows(operator: str, version: int) -> None:
    assert minimum_runtime_version({"FULLY_CONNECTED": 14, operator: version}) == AFTER_ALL_KNOWN
    assert all(is_older(known, AFTER_ALL_KNOWN) for releases in RELEASES.values() for known in releases)


def test_no_version_of_an_operator_is_older_than_the_one_before() -> None:
    assert [name for name, known in RELEASES.items() for old, new in pairwise(known) if is_older(new, old)] == []


@pytest.mark.parametrize(
    ("operator", "version", "release"),
    [
        ("DEQUANTIZE", 6, "2.18.0"),
        ("FULLY_CONNECTED", 10, "2.11.0"),
        ("CONV_2D", 0, "1.5.0"),
        ("EQUAL", 4, "2.13.0"),
        ("STABLEHLO_COMPOSITE", 1, "2.17.0"),
    ],
)
def test_releases_are_those_of_tensorflow(operator: str, version: int, release: str) -> None:
    assert release_of(operator, version) == release


@given(st.lists(st.integers(0, 99), min_size=1, max_size=4), st.lists(st.integers(0, 99), min_size=1, max_size=4))
def test_releases_are_ordered_by_their_numbers(a: list[int], b: list[int]) -> None:
    older = is_older(".".join(map(str, a)), ".".join(map(str, b)))
    assert older == ([*a, *[0] * (4 - len(a))] < [*b, *[0] * (4 - len(b))])


def test_a_statement_that_is_no_release_counts_as_none() -> None:
    assert is_older("9" * 5000, "1.5.0")
    assert is_older("new", "1.5.0")
