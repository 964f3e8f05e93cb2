# SPDX-License-Identifier: Apache-2.0
"""Stored figures: what is compared, what fails, and what the file looks like."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet.contracts.errors import ConflictError, SettingError, StorageError
from fleet_emulation.testing.baseline import BaselineFile, compare, merge, read_baselines, write_baselines
from fleet_emulation.testing.measured import Key, Measured, Origin

GCC = Key(profile="mps2-an386", compiler="gcc", version="12.2.1", flags="-O2")


def _measured(key: Key = GCC, model: str = "a" * 64, **figures: int) -> Measured:
    return Measured(key=key, origin=Origin(build="static", model_sha256=model), figures=figures)


def _stored(*measured: Measured, name: str = "kws") -> BaselineFile:
    return merge(BaselineFile(), [(name, one) for one in measured])


def test_the_same_figures_are_the_same() -> None:
    told = compare("kws", _stored(_measured(instructions=100)), _measured(instructions=100), {})
    assert (told.verdict, told.sentence) == ("same", "")


def test_one_instruction_more_in_three_million_fails() -> None:
    told = compare("kws", _stored(_measured(instructions=3_000_000)), _measured(instructions=3_000_001), {})
    assert told.verdict == "worse"
    assert told.sentence == "costs more than the baseline 'kws': instructions 3,000,000 → 3,000,001 (+0.00 %)"


def test_all_that_rose_is_named_and_what_fell_is_not() -> None:
    stored = _stored(_measured(instructions=1000, loads=50, stack_bytes=400))
    told = compare("kws", stored, _measured(instructions=1010, loads=40, stack_bytes=408), {})
    assert told.sentence == (
        "costs more than the baseline 'kws': instructions 1,000 → 1,010 (+1.00 %), stack_bytes 400 → 408 (+2.00 %)"
    )


@pytest.mark.parametrize(("after", "verdict"), [(1010, "within-tolerance"), (1011, "worse"), (999, "better")])
def test_a_tolerance_is_the_most_that_passes(after: int, verdict: str) -> None:
    told = compare("kws", _stored(_measured(instructions=1000)), _measured(instructions=after), {"instructions": 1.0})
    assert told.verdict == verdict


def test_less_is_told() -> None:
    told = compare("kws", _stored(_measured(instructions=1000)), _measured(instructions=900), {})
    assert told.sentence == "costs less than the baseline 'kws': instructions 1,000 → 900 (-10.00 %)"


def test_another_model_that_costs_more_fails_and_is_called_another_model() -> None:
    told = compare("kws", _stored(_measured(instructions=100)), _measured(model="b" * 64, instructions=200), {})
    assert told.verdict == "worse"
    assert told.sentence == (
        "costs more than the baseline 'kws': instructions 100 → 200 (+100.00 %); since then the model changed"
    )


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("compiler", "zig", "which is of gcc 12.2.1, and this is zig 12.2.1"),
        ("version", "13.1.0", "which is of gcc 12.2.1, and this is gcc 13.1.0"),
        ("flags", "-Os -g", "as its compiler's flags changed: -O2 went, -Os -g came"),
    ],
)
def test_another_compiler_is_a_sentence_and_no_failure(field: str, value: str, why: str) -> None:
    values = {"profile": "mps2-an386", "compiler": "gcc", "version": "12.2.1", "flags": "-O2"}
    other = Key(**{**values, field: value})
    told = compare("kws", _stored(_measured(instructions=100)), _measured(other, instructions=900), {})
    assert told.verdict == "other-key"
    assert told.sentence == f"is not compared with the baseline 'kws', {why}"


def test_a_figure_that_this_machine_cannot_measure_is_told_and_does_not_fail() -> None:
    why = {"loads": "'objdump' is not installed"}
    here = Measured(key=GCC, origin=Origin(build="static", model_sha256="a" * 64), figures={"stores": 3}, missing=why)
    told = compare("kws", _stored(_measured(loads=2, stores=3)), here, {})
    assert told.verdict == "same"
    assert told.sentence == "loads is not compared: 'objdump' is not installed"


def test_each_compiler_has_figures_of_its_own() -> None:
    zig = Key(profile="mps2-an386", compiler="zig", version="0.16.0", flags="-O2")
    stored = _stored(_measured(instructions=100), _measured(zig, instructions=120))
    assert compare("kws", stored, _measured(zig, instructions=120), {}).verdict == "same"
    assert compare("kws", stored, _measured(instructions=101), {}).verdict == "worse"


def test_nothing_stored_fails() -> None:
    with pytest.raises(SettingError) as refused:
        compare("kws", BaselineFile(), _measured(instructions=1), {})
    assert refused.value.message == "there is no baseline 'kws' for mps2-an386 yet"
    assert refused.value.hint == "run 'pytest --edgefleet-update-baseline' and commit the file"


def test_a_figure_that_is_not_measured_any_more_fails() -> None:
    told = compare("kws", _stored(_measured(instructions=1, loads=2)), _measured(instructions=1), {})
    assert told.verdict == "worse"
    assert told.sentence == "costs more than the baseline 'kws': loads was 2 and is not measured any more"


def test_only_the_figures_that_a_test_names_are_compared() -> None:
    stored = _stored(_measured(instructions=1, loads=2))
    assert compare("kws", stored, _measured(instructions=1, loads=9), {}, only=["instructions"]).verdict == "same"


def test_two_tests_with_different_figures_under_one_name_are_a_conflict() -> None:
    with pytest.raises(ConflictError) as refused:
        merge(BaselineFile(), [("kws", _measured(instructions=1)), ("kws", _measured(instructions=2))])
    assert refused.value.message == (
        "two tests measured different figures under the baseline 'kws' for mps2-an386, gcc 12.2.1"
    )


def test_a_file_is_written_once_sorted_and_stays_the_same(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "edgefleet-baseline.json"
    later = merge(_stored(_measured(instructions=2), name="b"), [("a", _measured(loads=1, instructions=3))])
    earlier = merge(_stored(_measured(loads=1, instructions=3), name="a"), [("b", _measured(instructions=2))])
    assert write_baselines(path, later)
    first = path.read_bytes()
    assert not write_baselines(path, earlier)
    assert path.read_bytes() == first
    assert list(json.loads(first)["baselines"]) == ["a", "b"]
    assert read_baselines(path) == later
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_an_update_leaves_other_names_and_keys_as_they_are() -> None:
    zig = Key(profile="mps2-an386", compiler="zig", version="0.16.0", flags="-O2")
    stored = merge(_stored(_measured(instructions=1), _measured(zig, instructions=2)), [("other", _measured(loads=3))])
    updated = merge(stored, [("kws", _measured(instructions=9))])
    assert updated.baselines["other"] == stored.baselines["other"]
    assert [entry.figures["instructions"] for entry in updated.baselines["kws"]] == [9, 2]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "'edgefleet-baseline.json' is not a baseline file: Input data was truncated"),
        (
            '{"format_version": 2, "baselines": {}}',
            "'edgefleet-baseline.json' is not a baseline file: Invalid enum value 2 - at `$.format_version`",
        ),
        (
            '{"format_version": 1, "baselines": {"kws": [{"key": {}}]}}',
            "'edgefleet-baseline.json' is not a baseline file: "
            "Object missing required field `profile` - at `$.baselines[...][0].key`",
        ),
    ],
)
def test_a_file_that_cannot_be_read_stops(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "edgefleet-baseline.json"
    path.write_text(text)
    with pytest.raises(SettingError) as refused:
        read_baselines(path)
    assert refused.value.message == message


def test_a_file_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError) as refused:
        write_baselines(tmp_path / "file" / "edgefleet-baseline.json", BaselineFile())
    assert refused.value.message.startswith("cannot write the baseline file '")


_NAMES = st.sampled_from(["instructions", "loads", "stores", "stack_bytes", "flash_bytes"])
_FIGURES = st.dictionaries(_NAMES, st.integers(0, 2**40), min_size=1)


@given(_FIGURES, _FIGURES, st.floats(0, 50))
def test_a_verdict_of_worse_is_one_figure_over_its_tolerance_or_lost(
    before: dict[str, int], after: dict[str, int], tolerance: float
) -> None:
    told = compare("x", _stored(_measured(**before), name="x"), _measured(**after), dict.fromkeys(before, tolerance))
    over = any(
        name not in after or (after[name] > value and after[name] * 100 > value * (100 + tolerance))
        for name, value in before.items()
    )
    assert (told.verdict == "worse") == over
    assert (told.verdict == "same") == (told.sentence == "")


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner)))
def test_any_json_that_is_no_baseline_file_is_refused_in_a_sentence(tmp_path_factory: Any, value: object) -> None:
    path = tmp_path_factory.mktemp("baseline") / "edgefleet-baseline.json"
    path.write_text(json.dumps(value))
    with pytest.raises(SettingError):
        read_baselines(path)
