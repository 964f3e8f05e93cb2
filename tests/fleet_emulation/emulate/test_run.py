# SPDX-License-Identifier: Apache-2.0
"""``edgefleet emulate run``: TFLM's bytes on every board, exact counts, and refusals of one sentence."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import tomli_w

from benchmarks.operator_cases.case import GraphWriter, flatbuffer
from firmware_profiles.loader import load_profile

BOARDS = ("mps2-an385", "mps2-an386", "mps2-an500", "mps2-an505", "mps3-an547", "rv32-virt")
#: What scripts rely on.
FIXED = {
    "instructions", "loads", "stores", "init_instructions", "stack_bytes", "flash_bytes", "ram_bytes",
}  # fmt: skip


@pytest.mark.boards
@pytest.mark.parametrize("board", BOARDS)
def test_a_board_gives_tflm_s_bytes(
    board: str, tmp_path: Path, microcontroller_case: Any, edgefleet_command: Callable[..., Any]
) -> None:
    bundle, batch, expected = microcontroller_case
    output = tmp_path / "y.npy"
    told = edgefleet_command(
        "emulate", "run", bundle, "--profile", board, "--input", batch, "--output", output, "--json"
    )
    document = told.document
    answers = np.load(output)
    assert (answers.dtype, answers.tobytes()) == (expected.dtype, expected.tobytes())
    assert all(isinstance(document[name], int) and document[name] > 0 for name in FIXED)
    assert (document["profile"], document["samples"]) == (board, 3)
    assert document["ram_bytes"] >= document["arena_bytes"]
    assert document["flash_bytes"] == document["model_bytes"] + document["code_bytes"]
    in_layers = sum(layer["instructions"] for layer in document["layers"])  # each layer's own most expensive sample
    assert in_layers == pytest.approx(document["instructions"], rel=0.01)


@pytest.mark.boards
def test_counts_are_the_same_in_every_run(
    tmp_path: Path, microcontroller_case: Any, edgefleet_command: Callable[..., Any]
) -> None:
    bundle, batch, _ = microcontroller_case
    arguments = ("emulate", "run", bundle, "--input", batch, "--output", tmp_path / "y.npy", "--json")
    first, *others = [edgefleet_command(*arguments).document for _ in range(3)]
    assert others == [first, first]


@pytest.mark.boards
def test_firmware_that_can_be_updated_costs_two_percent_at_most(
    tmp_path: Path, microcontroller_case: Any, edgefleet_command: Callable[..., Any]
) -> None:
    bundle, batch, expected = microcontroller_case
    arguments = ("emulate", "run", bundle, "--input", batch, "--output", tmp_path / "y.npy", "--json")
    static = edgefleet_command(*arguments).document
    updatable = edgefleet_command(*arguments, "--updatable").document
    assert np.load(tmp_path / "y.npy").tobytes() == expected.tobytes()
    assert (static["updatable"], updatable["updatable"]) == (False, True)
    assert updatable["instructions"] <= static["instructions"] * 1.02


@pytest.mark.boards
def test_a_stream_keeps_its_state_only_when_asked(tmp_path: Path, edgefleet_command: Callable[..., Any]) -> None:
    """The model answers with the sum of all that it has heard."""
    graph = GraphWriter()
    heard, before, summed = (graph.tensor((1, 4), 0.5, 0) for _ in range(3))
    handle = graph.tensor([], dtype="resource")
    graph.operator("VAR_HANDLE", [], [handle], container="", sharedName="sum")
    graph.operator("READ_VARIABLE", [handle], [before])
    graph.operator("ADD", [heard, before], [summed])
    graph.operator("ASSIGN_VARIABLE", [handle, summed], [])
    case = graph.case("sum", {heard: np.zeros((1, 4), np.int8)}, [summed])
    model, batch, output = tmp_path / "sum.tflite", tmp_path / "x.npy", tmp_path / "y.npy"
    model.write_bytes(flatbuffer(case.graph))
    np.save(batch, np.full((3, 4), 5, np.int8))
    arguments = (
        "emulate", "run", model, "--profile", "mps2-an386", "--input", batch, "--output", output, "--reset-state",
    )  # fmt: skip
    assert edgefleet_command(*arguments, "each").status == 0
    assert np.load(output)[:, 0].tolist() == [5, 5, 5]
    assert edgefleet_command(*arguments, "never").status == 0
    assert np.load(output)[:, 0].tolist() == [5, 10, 15]


def _small_board(folder: Path, region: str, size_bytes: int) -> Path:
    document = msgspec.to_builtins(load_profile("mps2-an386"))
    document["budgets"] = {}
    for entry in document["memory"]["regions"]:
        if entry["name"] == region:
            entry["size_bytes"] = size_bytes
    path = folder / "small.toml"
    path.write_bytes(tomli_w.dumps(_without_none(document)).encode())
    return path


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_none(part) for name, part in value.items() if part is not None}
    if isinstance(value, list | tuple):
        return [_without_none(part) for part in value]
    return value


@pytest.mark.boards
@pytest.mark.parametrize("region", ["code", "data"])
def test_a_model_that_does_not_fit_is_refused(
    region: str, tmp_path: Path, microcontroller_case: Any, edgefleet_command: Callable[..., Any]
) -> None:
    bundle, batch, _ = microcontroller_case
    board = _small_board(tmp_path, region, 2048)
    output = tmp_path / "y.npy"
    told = edgefleet_command("emulate", "run", bundle, "--profile", board, "--input", batch, "--output", output)
    assert (told.status, told.out, output.exists()) == (3, "", False)
    start, end = "error: the image does not fit mps2-an386: it needs ", f" bytes of '{region}', which has 2,048\n"
    assert told.err.startswith(start)
    assert end in told.err


def _unknown_operator() -> bytes:
    graph = GraphWriter()
    x, y = graph.tensor((1, 4), 0.5, 0), graph.tensor((1, 4), 0.5, 0)
    graph.operator("ABS", [x], [y])
    return flatbuffer(graph.case("abs", {x: np.zeros((1, 4), np.int8)}, [y]).graph)


@pytest.mark.parametrize(
    ("board", "message"),
    [
        (None, "error: '{model}' is a model and names no board\n"
               "hint: name a microcontroller's profile with --profile; 'edgefleet profiles list' shows them\n"),
        ("raspberry-pi-4", "error: the board 'raspberry-pi-4' is no microcontroller\n"
                           "hint: name a microcontroller's profile with --profile; "
                           "'edgefleet profiles list' shows them\n"),
        ("nucleo-l4r5zi", "error: QEMU has no machine for 'nucleo-l4r5zi': its code is compiled and not run\n"
                          "hint: run it on an emulated board with the same kernels: "
                          "mps2-an386, mps2-an500, mps2-an505\n"),
        ("mps2-an386", "error: the operator ABS (number 0) cannot be written as C: there is no kernel for it\n"
                       "hint: write this part of the model in another way, or choose a profile whose runtime has the "
                       "operator\n"),
    ],
)  # fmt: skip
def test_what_cannot_run_is_refused_in_one_sentence(
    board: str | None, message: str, tmp_path: Path, edgefleet_command: Callable[..., Any]
) -> None:
    model, batch = tmp_path / "abs.tflite", tmp_path / "x.npy"
    model.write_bytes(_unknown_operator())
    np.save(batch, np.zeros((1, 4), np.int8))
    where = () if board is None else ("--profile", board)
    told = edgefleet_command("emulate", "run", model, *where, "--input", batch, "--output", tmp_path / "y.npy")
    assert (told.status, told.out, told.err) == (3, "", message.format(model=model))


@pytest.mark.parametrize(
    ("batch", "got"),
    [
        (np.zeros((2, 8, 8, 1), np.float32), "float32[2, 8, 8, 1]"),
        (np.zeros((2, 7, 8, 1), np.int8), "int8[2, 7, 8, 1]"),
    ],
)
def test_a_batch_of_another_kind_is_refused(
    batch: "np.ndarray[Any, Any]",
    got: str,
    tmp_path: Path,
    microcontroller_case: Any,
    edgefleet_command: Callable[..., Any],
) -> None:
    np.save(tmp_path / "x.npy", batch)
    told = edgefleet_command(
        "emulate", "run", microcontroller_case.bundle, "--input", tmp_path / "x.npy", "--output", tmp_path / "y.npy"
    )
    assert (told.status, told.err) == (
        3,
        f"error: the batch is {got}, and the model takes int8[8, 8, 1] behind the axis of samples\n"
        "hint: quantize the samples as the model's input says, and put them along the first axis\n",
    )


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (
            "arm-none-eabi-gcc",
            "error: 'arm-none-eabi-gcc' is not installed\nhint: run: apt-get install gcc-arm-none-eabi\n",
        ),
        ("qemu-system-arm", None),
    ],
)
def test_a_missing_program_is_one_sentence(
    program: str,
    message: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    microcontroller_case: Any,
    edgefleet_command: Callable[..., Any],
) -> None:
    bundle, batch, _ = microcontroller_case
    monkeypatch.setenv("PATH", str(tmp_path))
    compiler = "gcc" if program.endswith("gcc") else "zig"
    told = edgefleet_command(
        "emulate", "run", bundle, "--compiler", compiler, "--input", batch, "--output", tmp_path / "y.npy"
    )
    assert (told.status, told.out, (tmp_path / "y.npy").exists()) == (1, "", False)
    assert told.err == message if message else program in told.err
    assert told.err.count("\n") == 2
