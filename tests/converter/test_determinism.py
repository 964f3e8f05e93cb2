# SPDX-License-Identifier: Apache-2.0
"""The same inputs make the same bundle: in any process, on any number of cores, in any order, on any processor.

``benchmarks/campaign_determinism.py`` does the same with more models and in more surroundings.
"""

import math
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from benchmarks.campaign_determinism import (
    ELSEWHERE,
    OLD_LIBRARIES,
    Job,
    Surroundings,
    find_emulator,
    hashes,
    numpy_without_dispatch,
    reordered,
    run_in,
)
from converter.adapters.running.calibration import KeepingInterpreter
from converter.adapters.samples.sets import open_samples
from converter.core.parity_choice import reference_tolerance
from converter.core.steadiness import production_tolerance, swayed, unclear
from converter.proof import acceptance_npz
from edgefleet.contracts.manifest import TensorSpec
from edgefleet.runtimes.elementary import logarithm, total
from edgefleet.runtimes.litert import LiteRtInterpreter

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
PLAIN = Surroundings("as it comes", environment={"PYTHONHASHSEED": "0"})
OTHERWISE = Surroundings(
    "one core, and no instruction that older processors lack",
    options=("-O",),
    environment={**ELSEWHERE, **OLD_LIBRARIES, **numpy_without_dispatch()},
    cores=1,
    umask=0o077,
)
#: What does not leave float outputs to the C library, and what does.
RECIPES: dict[str, Job] = {
    "int8": {"precision": "int8"},
    "entropy and gptq": {"precision": "int8", "ranges": "entropy", "rounding": "gptq"},
    "dynamic": {"precision": "dynamic-int8"},
    "float": {"precision": "float32"},
}
SPECS = (
    TensorSpec(name="i", shape=(1, 400), dtype="int8", scale=0.5, zero_point=0),
    TensorSpec(name="f", shape=(1, 400), dtype="float32"),
    TensorSpec(name="n", shape=(1, 400), dtype="int32"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with samples of the digits (calibration.npz, live.npz), and a model of curved functions."""
    made = tmp_path_factory.mktemp("determinism")
    with np.load(DIGITS / "digits.npz") as stored:
        np.savez(made / "calibration.npz", x=stored["calibration_x"], y=stored["calibration_y"])
        np.savez(made / "live.npz", x=stored["live_x"][:120], y=stored["live_y"][:120])
    (made / "curves.tflite").write_bytes(curves())
    return made


@pytest.fixture(scope="module")
def jobs(folder: Path) -> list[Job]:
    return [
        {
            "title": f"{name} {title}", "model": str(path), "profile": "linux-x86_64", "recipe": recipe,
            "calibration": str(folder / "calibration.npz"), "evaluation": str(folder / "live.npz"),
            "acceptance": str(DIGITS / "acceptance.npz"),
        }
        for name, path in (("digits", DIGITS / "v1_float32.tflite"), ("curves", folder / "curves.tflite"))
        for title, recipe in RECIPES.items()
    ]  # fmt: skip


@pytest.fixture(scope="module")
def wanted(jobs: list[Job], folder: Path) -> dict[str, str]:
    return hashes(run_in(PLAIN, jobs, folder))


@pytest.fixture(scope="module")
def running(jobs: list[Job], folder: Path) -> Iterator["subprocess.Popen[str]"]:
    """The same conversions, begun at the same time as those of ``wanted``."""
    process = run_in(OTHERWISE, jobs, folder)
    yield process
    process.kill()
    process.communicate()


def test_two_processes_at_once_one_on_one_core_without_new_instructions_make_the_same_bundles(
    running: "subprocess.Popen[str]", wanted: dict[str, str]
) -> None:
    assert {len(found) for found in wanted.values()} == {64}, wanted  # hashes, no refusals
    assert len(set(wanted.values())) == len(wanted)
    assert hashes(running) == wanted


def test_ten_orders_of_the_samples_make_the_same_bundle(jobs: list[Job], wanted: dict[str, str], folder: Path) -> None:
    orders = [
        {
            **job,
            "title": f"{job['title']} {seed}",
            "calibration": str(reordered(Path(job["calibration"]), folder / f"calibration{seed}", seed)),
            "evaluation": str(reordered(Path(job["evaluation"]), folder / f"evaluation{seed}", seed)),
        }
        for seed in range(10)
        for job in jobs[:2]
        if seed < 2 or job is jobs[0]
    ]
    found = hashes(run_in(PLAIN, orders, folder))
    assert len(found) == 12
    assert {title: wanted[title.rpartition(" ")[0]] for title in found} == found


@pytest.mark.skipif(find_emulator() is None, reason="no qemu-x86_64 (Debian: qemu-user) to run on another processor")
def test_another_processor_makes_the_same_bundle(jobs: list[Job], wanted: dict[str, str], folder: Path) -> None:
    nehalem = Surroundings("Nehalem", before=(str(find_emulator()), "-cpu", "Nehalem"), emulated=True)
    first = jobs[0]
    assert hashes(run_in(nehalem, [first], folder)) == {first["title"]: wanted[first["title"]]}


def test_acceptance_pictures_have_one_order_whatever_they_are_called_and_arrays_keep_theirs(tmp_path: Path) -> None:
    picture = pytest.importorskip("PIL.Image", reason="Pillow (extra 'converter') writes the pictures")
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        picture.fromarray(np.full((4, 4, 3), 40 * number, np.uint8)).save(folder / f"{number}.png")
    rows = [f"{number}.png,{number % 2}" for number in range(6)]
    (folder / "labels.csv").write_text("\n".join(["file,label", *rows]) + "\n")
    moved = [reordered(folder, tmp_path / f"moved{seed}", seed) for seed in range(3)]
    [made] = {acceptance_npz(open_samples(path, ["x"]), ["x"]) for path in (folder, *moved)}
    (tmp_path / "all.npz").write_bytes(made)
    with np.load(tmp_path / "all.npz") as stored:
        assert (stored["x"][:, 0, 0, 0] // 40 % 2 == stored["y"]).all()
    assert acceptance_npz(open_samples(tmp_path / "all.npz", ["x"]), ["x"]) == made
    another = reordered(tmp_path / "all.npz", tmp_path / "another", 1)
    assert acceptance_npz(open_samples(another, ["x"]), ["x"]) != made


@given(arrays(np.float64, st.integers(1, 40), elements=st.floats(1e-300, 1e300)))
@example(np.array([1.0, math.e, 0.5, math.sqrt(0.5)]))
def test_a_logarithm_is_the_logarithm(values: np.ndarray) -> None:
    np.testing.assert_allclose(logarithm(values), [math.log(value) for value in values], rtol=4e-16, atol=2e-16)


@given(arrays(np.float64, st.integers(0, 300), elements=st.floats(-1e6, 1e6)))
def test_a_total_is_the_sum(values: np.ndarray) -> None:
    assert total(values) == pytest.approx(math.fsum(values.tolist()), abs=1e-6)


def test_inputs_are_moved_by_a_step_at_most_and_always_the_same_way() -> None:
    chance = np.random.default_rng(5)
    whole = chance.integers(-128, 128, (1, 400)).astype(np.int8)
    sample = [whole, chance.normal(size=(1, 400)).astype(np.float32), np.arange(400, dtype=np.int32)[np.newaxis]]
    steps, reals, names = swayed(sample, SPECS, 3, 2.0**-8)
    apart = steps.astype(int) - whole
    assert (set(apart.reshape(-1).tolist()), steps.dtype) == ({-1, 0, 1}, np.int8)
    assert 0.0 < np.abs(reals - sample[1]).max() <= 1.001 * 2.0**-8 * np.abs(sample[1]).max()
    assert names is sample[2]
    again, other = swayed(sample, SPECS, 3, 2.0**-8)[0], swayed(sample, SPECS, 4, 2.0**-8)[0]
    assert (steps == again).all()
    assert (steps != other).any()


def test_at_the_end_of_a_type_a_step_leads_nowhere() -> None:
    ends = np.repeat(np.array([[-128, 127]], np.int8), 200, axis=1)
    [moved] = swayed([ends], SPECS[:1], 0, 1.0)
    assert set((moved.astype(int) - ends).reshape(-1).tolist()) == {-1, 0, 1}
    assert ((moved == ends) | (np.abs(moved.astype(int)) < 128)).all()


@pytest.mark.parametrize(
    ("unit", "swayed_by", "measured", "least", "tolerance"),
    [
        ("lsb", 0.0, 0.0, 0.0, 2.0), ("lsb", 0.0, 2.0, 0.0, 2.0), ("lsb", 4.0, 0.0, 0.0, 8.0),
        ("lsb", 4.5, 9.0, 0.0, 16.0), ("lsb", 0.0, 3.0, 0.0, 32.0), ("absolute", 0.0, 1e-7, 2.0**-16, 2.0**-16),
        ("absolute", 0.1, 0.0, 2.0**-16, 0.25), ("absolute", 0.1, 0.26, 2.0**-16, 4.0),
    ],
)  # fmt: skip
def test_a_tolerance_comes_from_moved_inputs_unless_this_processor_needs_more(
    unit: str, swayed_by: float, measured: float, least: float, tolerance: float
) -> None:
    assert production_tolerance(unit, swayed_by=swayed_by, measured=measured, least=least) == tolerance


@given(st.floats(1e-3, 1e6))
@example(1.0)
@example(2.0)
@example(2.0000000000000004)
def test_a_float_reference_tolerance_is_the_next_power_of_two(largest: float) -> None:
    tolerance = reference_tolerance("absolute", largest)
    assert math.frexp(tolerance)[0] == 0.5
    assert tolerance / 2.0 < max(largest, 1.0) * 2.0**-16 <= tolerance


def test_answers_that_other_kernels_may_tell_otherwise_are_doubtful() -> None:
    step = 1.0 / 256.0
    outputs = np.array([
        [0.9, 0.1],  # clear, unless bins are asked for: 0.9 is the edge of one
        [0.5, 0.5],
        [0.5 + step, 0.5 - step],
        [0.73, 0.27],
        [1.0, 0.0],  # the last bin has no other side
        [np.nan, 0.0],
    ])  # fmt: skip
    assert unclear(outputs, step) == [1, 2, 5]
    assert unclear(outputs, step, bins=20) == [0, 1, 2, 5]
    assert unclear(outputs[[0, 3]], 0.0, bins=20) == [0]


def test_each_sample_meets_a_model_whose_state_is_new() -> None:
    model = remembering()
    interpreter = KeepingInterpreter(model)
    samples = [np.full((1, 4), value, np.float32) for value in (1.0, 3.0, 1.0)]
    answers = []
    for sample in samples:
        interpreter.invoke([sample])
        answers.append(interpreter.read_real(1).tolist())
    assert answers[0] == answers[2] != answers[1]
    plain = LiteRtInterpreter(model, kernels="reference")
    first, *_, last = [plain.invoke([sample])[0].tolist() for sample in samples]
    assert first != last  # without a new start, it remembers


def curves() -> bytes:
    """A model for the digits whose functions come from the C library: TANH, SIN, EXP, RSQRT, LOGISTIC, SOFTMAX."""
    chance = np.random.default_rng(11)
    graph = _Graph()
    taken = graph.tensor("pixels", (1, 8, 8, 1))
    graph.subgraph.inputs = [taken]
    shape = schema.ReshapeOptionsT()
    shape.newShape = [1, 64]
    flat = graph.made("RESHAPE", [taken, graph.constant(np.array([1, 64], np.int32))], "flat", (1, 64), shape)
    hidden = graph.dense(flat, "hidden", chance.normal(size=(24, 64)) / 60.0, chance.normal(size=24) / 4.0)
    for kind in ("TANH", "SIN", "EXP", "RSQRT", "LOGISTIC"):
        hidden = graph.made(kind, [hidden], kind.lower(), (1, 24))
    scores = graph.dense(hidden, "scores", chance.normal(size=(10, 24)) * 4.0, chance.normal(size=10))
    softmax = schema.SoftmaxOptionsT()
    softmax.beta = 1.0
    graph.subgraph.outputs = [graph.made("SOFTMAX", [scores], "shares", (1, 10), softmax)]
    return graph.bytes()


def remembering() -> bytes:
    """One SVDF cell: its answer depends on the inputs before."""
    graph = _Graph()
    taken = graph.tensor("now", (1, 4))
    answer = graph.tensor("answer", (1, 2))
    weights = graph.constant(np.ones((2, 4), np.float32))
    times = graph.constant(np.full((2, 3), 0.5, np.float32))
    state = graph.tensor("state", (1, 6))
    graph.subgraph.tensors[state].isVariable = True
    options = schema.SVDFOptionsT()
    options.rank = 1
    graph.operator("SVDF", [taken, weights, times, -1, state], [answer], options)
    graph.subgraph.inputs, graph.subgraph.outputs = [taken], [answer]
    return graph.bytes()


class _Graph:
    """A float TFLite model, put together operator by operator; tensors go by number."""

    def __init__(self) -> None:
        self.subgraph, self.model = schema.SubGraphT(), schema.ModelT()
        self.subgraph.tensors, self.subgraph.operators = [], []
        self.model.version, self.model.subgraphs, self.model.operatorCodes = 3, [self.subgraph], []
        self.model.buffers = [schema.BufferT()]

    def tensor(self, name: str, shape: Sequence[int], kind: int = schema.TensorType.FLOAT32) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name.encode(), list(shape), kind, 0
        self.subgraph.tensors.append(made)
        return len(self.subgraph.tensors) - 1

    def constant(self, values: np.ndarray) -> int:
        kind = schema.TensorType.INT32 if values.dtype.kind == "i" else schema.TensorType.FLOAT32
        number = self.tensor(f"constant{len(self.subgraph.tensors)}", values.shape, kind)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.astype("<i4" if values.dtype.kind == "i" else "<f4").tobytes(), np.uint8)
        self.model.buffers.append(buffer)
        self.subgraph.tensors[number].buffer = len(self.model.buffers) - 1
        return number

    def operator(self, kind: str, inputs: Sequence[int], outputs: Sequence[int], options: Any = None) -> None:
        code, made = schema.OperatorCodeT(), schema.OperatorT()
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
        code.version = 1
        if options is not None:
            made.builtinOptions = options
            made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.model.operatorCodes.append(code)
        made.opcodeIndex = len(self.model.operatorCodes) - 1
        made.inputs, made.outputs = list(inputs), list(outputs)
        self.subgraph.operators.append(made)

    def made(self, kind: str, inputs: Sequence[int], name: str, shape: Sequence[int], options: Any = None) -> int:
        output = self.tensor(name, shape)
        self.operator(kind, inputs, [output], options)
        return output

    def dense(self, source: int, name: str, weights: np.ndarray, bias: np.ndarray) -> int:
        inputs = [source, self.constant(weights), self.constant(bias)]
        return self.made("FULLY_CONNECTED", inputs, name, (1, len(bias)), schema.FullyConnectedOptionsT())

    def bytes(self) -> bytes:
        return bytes(flatbuffer_utils.convert_object_to_bytearray(self.model))
