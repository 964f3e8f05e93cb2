# SPDX-License-Identifier: Apache-2.0
"""Parity vectors in blobs: programs run them and compare each byte, and refuse blobs without them."""

import struct
import subprocess
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.operator_cases.case import GraphWriter, flatbuffer
from benchmarks.operator_cases.oracles import answers
from converter import convert
from converter.c.core.blob_format import HEADER_BYTES, Header, Vector, fnv1a_64
from converter.c.core.blob_reader import read_blob
from converter.c.core.program import Target
from converter.c.exports import export
from converter.c.generate import Generated, generate
from edgefleet.contracts.errors import IncompatibleError
from fleet_emulation.demo.run import example_folder

Prove = Callable[..., list[str]]
_MAIN = """\
#include "board.h"
#include "digits.h"
static uint8_t arena[DIGITS_ARENA_BYTES] __attribute__((aligned(16)));
int main(void)
{
    ef_model model;
    if (ef_open(&model, &digits) || ef_bind(&model, arena, sizeof arena)) return 9;
    return ef_self_test(&model, 0, 0);
}
"""
_WRONG_ANSWER = 5


def _streaming() -> tuple[bytes, tuple[Vector, ...]]:
    """Return a model with two inputs that adds what it heard before, and what it answers at its first step."""
    graph = GraphWriter()
    one, two, handle = graph.tensor([1, 5], 0.1, 4), graph.tensor([1, 5], 0.1, 4), graph.tensor([], dtype="resource")
    old, both, summed, last = (graph.tensor([1, 5], 0.1, 4) for _ in range(4))
    first, value = graph.tensor([], dtype="resource"), graph.tensor([1, 5], 0.1, 4, data=np.arange(5, dtype=np.int8))
    graph.operator("VAR_HANDLE", [], [handle], container="", sharedName="level")
    graph.operator_once("VAR_HANDLE", [], [first], container="", sharedName="level")
    graph.operator_once("ASSIGN_VARIABLE", [first, value], [])
    graph.operator("CALL_ONCE", [], [], initSubgraphIndex=1)
    graph.operator("READ_VARIABLE", [handle], [old])
    graph.operator("ADD", [one, two], [both])
    graph.operator("ADD", [both, old], [summed])
    graph.operator("ASSIGN_VARIABLE", [handle, summed], [])
    graph.operator("LOGISTIC", [summed], [last])
    graph.values[last] = replace(graph.values[last], scales=(1 / 256,), zero_point=-128)
    random = np.random.default_rng(5)
    steps = [{each: random.integers(-40, 40, (1, 5)).astype(np.int8) for each in (one, two)} for _ in range(3)]
    case = graph.case("streaming", steps, [last])
    model = flatbuffer(case.graph)
    return model, tuple(Vector(_joined(step), _joined(answers(model, "tflm/1", [step])[0])) for step in case.steps)


def _joined(arrays: Iterable[npt.NDArray[Any]]) -> bytes:
    return b"".join(array.tobytes() for array in arrays)


MODEL, VECTORS = _streaming()


def _made(vectors: Sequence[Vector] = VECTORS) -> Generated:
    return generate(MODEL, name="streaming", target=Target("tflm/1", "portable"), vectors=vectors)


def _layers() -> int:
    return len(_made().layers)


@pytest.fixture(scope="module", name="prove")
def _prove(workshop: Any, tmp_path_factory: pytest.TempPathFactory) -> Prove:
    """Return what a program says of blobs, one line each."""
    program = workshop.linked("self_test.c", _made(), tmp_path_factory.mktemp("proving"))

    def run(*blobs: bytes, stop_at: int | None = None) -> list[str]:
        done = subprocess.run(
            [str(program), *([] if stop_at is None else [str(stop_at)])],
            input=b"".join(struct.pack("<I", len(blob)) + blob for blob in blobs),
            capture_output=True,
            timeout=120,
            check=False,
        )
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout.decode().splitlines()

    return run


def test_each_vector_begins_with_first_values(prove: Prove) -> None:
    assert prove(_made().blob) == [f"0 {3 * _layers()} -"]
    hashed = [replace(vector, layers=tuple(map(fnv1a_64, [b"x"] * _layers()))) for vector in VECTORS]
    assert prove(_made(hashed).blob) == [f"0 {3 * _layers()} -"], "hashes lie before inputs"


@pytest.mark.parametrize("place", [0, 4])
@pytest.mark.parametrize("number", [0, 2])
def test_one_wrong_byte_is_found(prove: Prove, number: int, place: int) -> None:
    outputs = bytearray(VECTORS[number].outputs)
    outputs[place] ^= 1
    wrong = [*VECTORS]
    wrong[number] = replace(wrong[number], outputs=bytes(outputs))
    expected = f"5 {(number + 1) * _layers()} an output differs from its parity vector"
    assert prove(_made(wrong).blob) == [expected]


def test_a_blob_without_vectors_does_not_pass(prove: Prove) -> None:
    assert prove(_made(()).blob) == ["1 0 no parity vectors"]


def test_yield_stops_a_self_test(prove: Prove) -> None:
    assert prove(_made().blob, stop_at=_layers() + 1) == [f"4 {_layers() + 1} -"]


@given(st.integers(0, 2**32 - 1) | st.integers(0, 2048), st.integers(4, 2**32 - 1), st.sampled_from([0, 1]))
@settings(max_examples=40, deadline=None)
def test_vectors_are_never_read_beyond_the_blob(prove: Prove, at: int, count: int, flags: int) -> None:
    blob = _made().blob
    header = replace(Header.unpack(blob), vectors_at=at, vector_count=count, flags=flags)
    (line,) = prove(header.pack() + blob[len(header.pack()) :])
    assert line == "1 0 parity vectors are cut off" or line.startswith("5 ")


def test_vectors_leave_programs_alone() -> None:
    plain, proved = _made(()), _made()
    assert read_blob(proved.blob).vectors == VECTORS
    assert read_blob(proved.blob).plan == read_blob(plain.blob).plan
    assert {name for name, text in proved.sources.items() if text != plain.sources[name]} <= {
        "streaming.h", "streaming.c", "streaming_blob.c",
    }  # fmt: skip


@pytest.fixture(scope="module", name="bundle")
def _bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, example = tmp_path_factory.mktemp("bundle"), example_folder()
    with np.load(example / "digits.npz") as digits:
        np.savez(folder / "calibration.npz", x=digits["calibration_x"], y=digits["calibration_y"])
    made = convert(
        example / "v1_float32.tflite",
        profile="mps2-an386",
        name="digits",
        version="1.0.0",
        calibration=folder / "calibration.npz",
    )
    return made.write(folder)


def test_exports_carry_as_many_of_a_bundle_s_vectors_as_asked(bundle: Path, tmp_path: Path) -> None:
    for most, carried in ((0, 0), (3, 3), (99, 8)):
        out = tmp_path / str(most)
        done = export([bundle], profile=None, numerics=None, form="c", out=out, parity_vectors=most)
        blob = (out / "digits" / "digits.blob").read_bytes()
        assert len(read_blob(blob).vectors) == done.models[0].parity_vectors == carried
        assert done.models[0].blob_bytes == len(blob)


def test_generated_code_passes_a_bundle_s_vectors(bundle: Path, tmp_path: Path, workshop: Any) -> None:
    """The exported folder alone is compiled, with the portable kernels, as an application would."""
    export([bundle], profile="mps2-an385", numerics=None, form="c", out=tmp_path / "out", parity_vectors=8)
    program = tmp_path / "program"
    subprocess.run(
        [
            *("cc", "-std=c99", "-Wall", "-Wextra", "-Werror", "-D_ISOC11_SOURCE", "-DEF_UPDATABLE", "-DMODEL=digits"),
            *('-DMODEL_HEADER="digits.h"', f"-I{tmp_path / 'out' / 'include'}", f"-I{tmp_path / 'out' / 'digits'}"),
            *(str(Path(__file__).with_name("self_test.c")), *map(str, sorted((tmp_path / "out").rglob("*.c")))),
            *("-o", str(program)),
        ],
        check=True,
    )
    blob = (tmp_path / "out" / "digits" / "digits.blob").read_bytes()
    done = subprocess.run(
        [str(program)], input=struct.pack("<I", len(blob)) + blob, capture_output=True, timeout=60, check=True
    )
    layers = len(read_blob(blob).layers)
    assert done.stdout.decode() == f"0 {8 * layers} -\n"


def test_vectors_of_other_numerics_are_refused(bundle: Path, tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError) as refusal:
        export([bundle], profile=None, numerics="litert/1", form="c", out=tmp_path / "out", parity_vectors=1)
    assert refusal.value.message == f"'{bundle.name}' has parity vectors of tflm/1, not of litert/1"
    assert not (tmp_path / "out").exists()


def test_a_model_alone_has_no_vectors(tmp_path: Path) -> None:
    (tmp_path / "streaming.tflite").write_bytes(MODEL)
    with pytest.raises(IncompatibleError) as refusal:
        export(
            [tmp_path / "streaming.tflite"],
            profile="mps2-an386",
            numerics=None,
            form="c",
            out=tmp_path / "out",
            parity_vectors=1,
        )
    assert refusal.value.message == "'streaming.tflite' is a model, and bundles carry parity vectors"


def _tell_another_answer(folder: Path) -> None:
    """Exchange the last answer in the blob that is compiled in, as its words."""
    blob = (folder / "digits" / "digits.blob").read_bytes()
    header = Header.unpack(blob)
    last = max(at for at in range(header.vectors_at, len(blob)) if blob[at])
    words = folder / "digits" / "digits_blob.c"
    lines = words.read_text().split("0x")
    place = 1 + last // 4  # what stands before the first word is no word
    word = int(lines[place][:8], 16) ^ 1 << 8 * (last % 4)
    lines[place] = f"{word:08x}" + lines[place][8:]
    words.write_text("0x".join(lines))
    assert header.vectors_at > HEADER_BYTES


@pytest.mark.boards
@pytest.mark.parametrize(
    ("board", "compiler", "wrong"),
    [
        ("mps2-an386", "gcc", False),
        ("mps2-an386", "gcc", True),
        ("mps3-an547", "zig", False),
        ("rv32-virt", "zig", False),
    ],
)
def test_a_chip_knows_whether_its_model_runs_right(
    board: str, compiler: Any, wrong: bool, tmp_path: Path, bundle: Path, edgefleet: Any
) -> None:
    out = tmp_path / "out"
    export([bundle], profile=board, numerics=None, form="c", out=out, parity_vectors=4)
    (tmp_path / "main.c").write_text(_MAIN)
    if wrong:
        _tell_another_answer(out)
    chip = edgefleet.board(
        board,
        sources=[tmp_path / "main.c", *sorted(out.rglob("*.c")), *sorted(out.rglob("*.S"))],
        includes=[out / "include", out / "digits"],
        compiler=compiler,
    )
    chip.run({}, exit_code=_WRONG_ANSWER if wrong else 0)
