# SPDX-License-Identifier: Apache-2.0
"""``edgefleet emulate parity``: everywhere the same bytes, and the first layer that differs is named."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fleet_emulation.emulate.parity as under_test
from benchmarks.operator_cases.case import GraphWriter, flatbuffer
from fleet_emulation.emulate.reference_layers import Reference, reference_layers

pytestmark = pytest.mark.boards


@pytest.fixture(name="arm64")
def _arm64() -> None:
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("missing: apt-get install qemu-user")


@pytest.mark.usefixtures("arm64")
def test_every_layer_is_the_same_everywhere(microcontroller_case: Any, edgefleet_command: Callable[..., Any]) -> None:
    document = edgefleet_command("emulate", "parity", microcontroller_case.bundle, "--json").document
    layers = document["comparisons"][0]["layers"]
    places = ("this machine, generated C", "arm64 Linux, generated C", "mps2-an386, generated C")
    assert layers >= 5
    assert document["comparisons"] == [
        {"where": place, "result": "same", "layers": layers, "difference": None, "why": None} for place in places
    ]
    assert (document["reference"], document["numerics"], document["same"]) == ("TFLM", "tflm/1", True)


def test_the_first_layer_that_differs_is_named(
    monkeypatch: pytest.MonkeyPatch, microcontroller_case: Any, edgefleet_command: Callable[..., Any]
) -> None:
    def with_a_fault(*arguments: Any) -> Reference:
        """Change one element that the second and the third layer made."""
        reference = reference_layers(*arguments)
        layers = {number: [values.copy() for values in samples] for number, samples in reference.layers.items()}
        for number in list(layers)[2:4]:
            layers[number][1].reshape(-1)[7] ^= 1
        return replace(reference, layers=layers)

    monkeypatch.setattr(under_test, "reference_layers", with_a_fault)
    told = edgefleet_command("emulate", "parity", microcontroller_case.bundle, "--json")
    document = json.loads(told.out)
    found = document["comparisons"][-1]
    assert (told.status, document["same"], found["result"]) == (1, False, "different")
    difference = found["difference"]
    assert difference["operator"].startswith("1 ")
    assert (difference["sample"], difference["elements"], difference["first"]) == (1, 1, 7)
    assert abs(difference["expected"] - difference["got"]) == 1


@pytest.mark.parametrize(("options", "status"), [((), 1), (("--allow-missing",), 0)])
def test_a_place_whose_programs_are_missing_is_told_and_fails_unless_that_is_allowed(
    options: tuple[str, ...],
    status: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    microcontroller_case: Any,
    edgefleet_command: Callable[..., Any],
) -> None:
    kept = ("gcc", "as", "ld", "arm-none-eabi-gcc", "qemu-system-arm")
    for program in kept:
        (tmp_path / program).symlink_to(str(shutil.which(program)))
    monkeypatch.setenv("PATH", str(tmp_path))
    told = edgefleet_command("emulate", "parity", microcontroller_case.bundle, "--json", *options)
    document = json.loads(told.out)
    assert (told.status, document["same"], document["complete"]) == (status, True, False)
    results = {comparison["where"]: comparison for comparison in document["comparisons"]}
    assert results["mps2-an386, generated C"]["result"] == "same"
    arm64 = results["arm64 Linux, generated C"]
    assert (arm64["result"], arm64["layers"]) == ("not-run", 0)
    assert arm64["why"] == "'qemu-aarch64' is not installed; run: apt-get install qemu-user"


@pytest.mark.usefixtures("arm64")
def test_litert_s_numerics_are_compared_with_litert(
    microcontroller_case: Any, edgefleet_command: Callable[..., Any]
) -> None:
    told = edgefleet_command("emulate", "parity", microcontroller_case.bundle, "--numerics", "litert/1", "--json")
    document = told.document
    assert document["reference"] == "LiteRT, reference kernels"
    assert [c["result"] for c in document["comparisons"] if "generated C" in c["where"]] == ["same"] * 3
    assert all(c["result"] in ("same", "not-run") for c in document["comparisons"])


def _tanh(path: Path, shape: list[int]) -> Path:
    graph = GraphWriter()
    value, made = graph.tensor(shape, 0.1, 0), graph.tensor(shape, 1 / 128, 0)
    graph.operator("TANH", [value], [made])
    case = graph.case("large", [{value: np.zeros(1, np.int8)}], [made])
    path.write_bytes(flatbuffer(case.graph))
    return path


_BEYOND_WORDS = "the tensor 't0' has 4,900,000,000 elements, and generated C counts to 536,870,911"


@pytest.mark.parametrize(
    ("verb", "shape", "message"),
    [
        (
            "parity", [1, 3000, 3000, 1],
            "the arena of 'large' has 9,000,000 bytes, and 'mps2-an386' has 4,194,304 bytes of RAM",
        ),
        ("parity", [1, 70000, 70000], _BEYOND_WORDS),
        ("run", [1, 70000, 70000], _BEYOND_WORDS),
    ],
)  # fmt: skip
def test_a_model_that_is_far_too_large_is_one_sentence(
    verb: str, shape: list[int], message: str, tmp_path: Path, edgefleet_command: Callable[..., Any]
) -> None:
    model = _tanh(tmp_path / "large.tflite", shape)
    np.save(tmp_path / "x.npy", np.zeros((1, 3), np.int8))
    batch = ("--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy") if verb == "run" else ()
    told = edgefleet_command("emulate", verb, model, "--profile", "mps2-an386", *batch)
    assert (told.status, told.err.splitlines()[0]) == (3, f"error: {message}")


def test_an_interpreter_that_a_model_kills_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, edgefleet_command: Callable[..., Any]
) -> None:
    monkeypatch.setattr(under_test, "reference_layers", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    told = edgefleet_command("emulate", "parity", _tanh(tmp_path / "x.tflite", [1, 4]), "--profile", "mps2-an386")
    assert (told.status, told.err.splitlines()[0]) == (3, "error: the model killed the converter (SIGKILL)")
