# SPDX-License-Identifier: Apache-2.0
"""A streaming model: what it heard before lies in state variables, and a reset brings their first values back."""

from contextlib import closing

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.operator_cases.case import Case, GraphWriter, flatbuffer
from benchmarks.operator_cases.host_kernels import HostKernels, Program, lowered
from benchmarks.operator_cases.oracles import NUMERICS
from converter.c.core.lowering import LOWERINGS
from converter.c.core.program import Target
from edgefleet.contracts.errors import UnsupportedModelError
from edgefleet.contracts.manifest import Numerics
from edgefleet.runtimes.interpreter import Interpreter
from edgefleet.runtimes.litert import LiteRtInterpreter
from edgefleet.runtimes.tflm import TflmInterpreter

_STEPS, _WINDOW, _FEATURES = 7, 4, 6
_SCALE, _ZERO = 0.05, -7


def _model(*, values_are_given: bool = True) -> Case:
    """Return a model that keeps a window of its inputs and a decaying level, and answers with both."""
    random = np.random.default_rng(4)
    graph = GraphWriter()

    def tensor(*shape: int, data: npt.NDArray[np.int8] | None = None) -> int:
        return graph.tensor(shape, _SCALE, _ZERO, data=data)

    heard = tensor(1, 1, _FEATURES)
    window, level = _variable(graph, "window"), _variable(graph, "level")
    if values_are_given:
        _first(graph, "window", tensor(1, _WINDOW, _FEATURES, data=_bytes(random, 1, _WINDOW, _FEATURES)))
        _first(graph, "level", tensor(1, 1, _FEATURES, data=_bytes(random, 1, 1, _FEATURES)))
        graph.operator("CALL_ONCE", [], [], initSubgraphIndex=1)

    old, longer, new = (tensor(1, _WINDOW + more, _FEATURES) for more in (0, 1, 0))
    graph.operator("READ_VARIABLE", [window], [old])
    graph.operator("CONCATENATION", [old, heard], [longer], axis=1)
    slice_of = graph.integers([0, 1, 0]), graph.integers([1, _WINDOW, _FEATURES])
    graph.operator("SLICE", [longer, *slice_of], [new])
    graph.operator("ASSIGN_VARIABLE", [window, new], [])

    before, halved, summed = (tensor(1, 1, _FEATURES) for _ in range(3))
    half = graph.tensor([1], 0.5 / 127, 0, data=np.array([127], np.int8))
    graph.operator("READ_VARIABLE", [level], [before])
    graph.operator("MUL", [before, half], [halved])
    graph.operator("ADD", [halved, heard], [summed])
    graph.operator("ASSIGN_VARIABLE", [level, summed], [])

    mean = tensor(1, 1, _FEATURES)
    graph.operator("MEAN", [new, graph.integers([1])], [mean], keepDims=True)
    steps = [{heard: _bytes(random, 1, 1, _FEATURES)} for _ in range(_STEPS)]
    return graph.case("streaming", steps, [mean, summed])


def _bytes(random: np.random.Generator, *shape: int) -> npt.NDArray[np.int8]:
    return random.integers(-128, 128, shape).astype(np.int8)


def _variable(graph: GraphWriter, name: str) -> int:
    handle = graph.tensor([], dtype="resource")
    graph.operator("VAR_HANDLE", [], [handle], container="", sharedName=name)
    return handle


def _first(graph: GraphWriter, name: str, value: int) -> None:
    handle = graph.tensor([], dtype="resource")
    graph.operator_once("VAR_HANDLE", [], [handle], container="", sharedName=name)
    graph.operator_once("ASSIGN_VARIABLE", [handle, value], [])


def _oracle(model: bytes, numerics: Numerics) -> Interpreter:
    return TflmInterpreter(model) if numerics == "tflm/1" else LiteRtInterpreter(model, kernels="reference")


def _answers(oracle: Interpreter, case: Case) -> list[list[bytes]]:
    return [[output.tobytes() for output in oracle.invoke(step)] for step in case.steps]


def _ours(kernels: HostKernels, case: Case, numerics: Numerics) -> list[list[bytes]]:
    parts = lowered(case.graph, Target(numerics, "portable"), LOWERINGS)
    return [[output.tobytes() for output in step] for step in kernels.run(Program(case.graph, parts), case.steps)]


@pytest.mark.parametrize("numerics", NUMERICS)
def test_each_step_answers_as_the_reference_does(host_kernels: HostKernels, numerics: Numerics) -> None:
    case = _model()
    wanted = _answers(_oracle(flatbuffer(case.graph), numerics), case)
    assert len({answer for step in wanted for answer in step}) > _STEPS  # the model does remember
    assert _ours(host_kernels, case, numerics) == wanted


def test_binding_the_arena_anew_does_what_a_reset_does(host_kernels: HostKernels) -> None:
    # TFLM's reset runs no CALL_ONCE again: it puts variables to their zero points.
    case = _model(values_are_given=False)
    with closing(TflmInterpreter(flatbuffer(case.graph))) as oracle:
        first = _answers(oracle, case)
        assert _answers(oracle, case) != first
        oracle.reset_state()
        assert _answers(oracle, case) == first == _ours(host_kernels, case, "tflm/1")


def test_litert_cannot_read_a_variable_without_first_values() -> None:
    case = _model(values_are_given=False)
    with pytest.raises(UnsupportedModelError) as refusal:
        lowered(case.graph, Target("litert/1", "portable"), LOWERINGS)
    assert refusal.value.message == (
        "the operator READ_VARIABLE (number 2) cannot be written as C: its variable has no value before it is first "
        "read: give it one through CALL_ONCE"
    )


def test_a_variable_is_read_where_it_lies_if_nobody_changes_it_before_its_last_reader() -> None:
    case = _model()
    parts = lowered(case.graph, Target("tflm/1", "portable"), LOWERINGS)
    reads = [parts[operator.number] for operator in case.graph.operators if operator.name == "READ_VARIABLE"]
    assert [(part.calls, *part.aliases.values()) for part in reads] == [((), "state:/window"), ((), "state:/level")]
