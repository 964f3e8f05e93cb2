# SPDX-License-Identifier: Apache-2.0
"""What a model costs on a board before any board is there: flash, arena, time. Each figure says how it was made."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod
from typing import Literal

from converter.core.board import tflm_structures as tflm
from converter.core.board.arena import ALIGNMENT_BYTES, Plan, aligned, elements, tensor_bytes
from converter.core.graph import GraphFacts, OperatorFacts, TensorFacts
from edgefleet.contracts.manifest import ArenaPlan
from edgefleet.contracts.profile import Profile

Planner = Literal["tflm-greedy", "offline"]
_US_PER_S = 1_000_000
_WIDE_ARCHITECTURES = frozenset({"x86_64", "aarch64"})
_CHANNEL_AXIS = {"CONV_2D": 0, "DEPTHWISE_CONV_2D": 3, "TRANSPOSE_CONV": 0}
#: Kernels that write their output's shape into memory of their own.
_COPIES_SHAPE = frozenset({"DEPTH_TO_SPACE", "GATHER", "SPACE_TO_DEPTH"})
#: 32-bit integers that kernels keep for sums of 8-bit values.
_WIDER_SUMS = {"ADD_N": 10, "CUMSUM": 9}
#: Cycles for one multiplication with its addition in 8 bits, by what the processor has. No board was measured; the M4's
#: is between Arm's own kernels and the reference (MLPerf Tiny, NUCLEO-L4R5ZI: 2 to 10).
_CYCLES_PER_MAC = (("mve", 0.7), ("dsp", 3.0), ("neon", 0.5), ("", 10.0))
_HOST_CYCLES_PER_MAC = 0.5
_CYCLES_PER_ELEMENT = 10.0
#: How many times longer a multiplication takes than one in 8 bits.
_WIDER = {"int8": 1.0, "uint8": 1.0, "int16": 2.0, "float16": 4.0, "float32": 4.0}


@dataclass(frozen=True)
class Cost:
    """What a model costs on a board, in bytes and microseconds; ``method`` says how each figure was made.

    ``flash_bytes`` is the model's share of flash; the firmware's code is the same for all models. ``arena`` is what the
    interpreter reports once the model is loaded; ``needed_arena_bytes`` is the smallest arena in which it loads, which
    is more for small models, whose planning takes more room than their activations. Both are a microcontroller's.
    """

    flash_bytes: int
    arena: ArenaPlan | None
    needed_arena_bytes: int | None
    latency_us: float | None
    method: str


@dataclass(frozen=True)
class Interpreter:
    """Whose structures are counted: the pointer width, and whether it is the wheel's interpreter or plain firmware."""

    pointer_bytes: int = 4
    wheel: bool = False


def predict(
    facts: GraphFacts,
    plan: Plan | None,
    profile: Profile,
    *,
    planner: Planner = "tflm-greedy",
    variables: Collection[int] = (),
    npu_latency_us: float | None = None,
) -> Cost:
    """Predict what a model costs on a profile's board under an arena plan, which boards without TFLM have none of.

    On a board with an NPU the time is the compiler's estimate, ``npu_latency_us``: counted work says nothing there.
    """
    latency_us = latency(facts, profile) if profile.accelerator is None else npu_latency_us
    if profile.runtime.kind != "tflm" or plan is None:
        return Cost(facts.size_bytes, None, None, latency_us, _method(facts, profile))
    width = 8 if profile.cpu.architecture in _WIDE_ARCHITECTURES else 4
    memory = arena_memory(facts, plan, Interpreter(pointer_bytes=width), variables=variables)
    arena = ArenaPlan(
        planner=planner, head_bytes=plan.size_bytes, bound_bytes=plan.bound_bytes, total_bytes=memory.total_bytes
    )
    return Cost(aligned(facts.size_bytes), arena, memory.needed_bytes, latency_us, _method(facts, profile))


@dataclass(frozen=True)
class ArenaMemory:
    """A loaded model's arena in bytes: head (the plan), tail (structures), and the smallest arena that loads it."""

    head_bytes: int
    tail_bytes: int
    needed_bytes: int

    @property
    def total_bytes(self) -> int:
        """Return what the interpreter reports as used."""
        return self.head_bytes + self.tail_bytes


def arena_memory(
    facts: GraphFacts, plan: Plan, interpreter: Interpreter, *, variables: Collection[int] = ()
) -> ArenaMemory:
    """Go through the interpreter's allocations in its order (``MicroInterpreter::AllocateTensors``) and add them up."""
    tail = _Tail(interpreter.pointer_bytes)
    _allocators(tail, wheel=interpreter.wheel)
    _graph(tail, facts, wheel=interpreter.wheel)
    scratch = sum(buffer.tensor is None for buffer in plan.buffers)
    preparing_bytes = _kernels(tail, facts, scratch, wheel=interpreter.wheel)
    tail.structures(tflm.SCRATCH_HANDLE, scratch)
    for number in sorted(variables):
        tail.take(tensor_bytes(facts.tensors[number]), ALIGNMENT_BYTES)
    planning_bytes = tail.used_bytes + _planning_bytes(facts, plan, scratch, interpreter.pointer_bytes)
    for numbers in (facts.inputs, facts.outputs):
        tail.take(interpreter.pointer_bytes * len(numbers), ALIGNMENT_BYTES)
        for number in numbers:
            _tensor(tail, facts.tensors[number])
    needed_bytes = max(preparing_bytes, planning_bytes, plan.size_bytes + tail.used_bytes)
    return ArenaMemory(plan.size_bytes, tail.used_bytes, needed_bytes)


def macs(operator: OperatorFacts, facts: GraphFacts) -> int:
    """Return how many multiplications with addition an operator does; one without weights does none."""
    if len(operator.inputs) < 2 or min(operator.inputs[:2]) < 0:
        return 0
    weights, output = facts.tensors[operator.inputs[1]].shape, facts.tensors[operator.outputs[0]]
    match operator.name:
        case "CONV_2D":
            return elements(output) * prod(weights[1:])
        case "DEPTHWISE_CONV_2D":
            return elements(output) * prod(weights[1:3])
        case "FULLY_CONNECTED":
            return elements(output) * weights[-1]
        case "TRANSPOSE_CONV":
            return elements(facts.tensors[operator.inputs[2]]) * prod(weights[:3])
        case "BATCH_MATMUL":
            return elements(output) * facts.tensors[operator.inputs[0]].shape[-1]
    return 0


def latency(facts: GraphFacts, profile: Profile) -> float | None:
    """Return microseconds an inference, from counted work and the board's clock; None where no clock is stated."""
    if profile.cpu.clock_hz is None:
        return None
    cycles = sum(_cycles(operator, facts, _cycles_per_mac(profile)) for operator in facts.operators)
    return cycles * _US_PER_S / profile.cpu.clock_hz


class _Tail:
    """The end of the arena, which grows downwards; each allocation begins at a multiple of its alignment."""

    def __init__(self, pointer_bytes: int) -> None:
        self.pointer_bytes = pointer_bytes
        self.used_bytes = 0

    def take(self, size_bytes: int, alignment: int) -> None:
        self.used_bytes = aligned(self.used_bytes + size_bytes, alignment)

    def structures(self, fields: str, count: int = 1) -> None:
        if fields and count:
            size_bytes = tflm.structure_bytes(fields, self.pointer_bytes) * count
            self.take(size_bytes, tflm.structure_alignment(fields, self.pointer_bytes))

    def kept(self, fields: str) -> None:
        """Take what a kernel asks for, which is aligned as tensors are."""
        if fields:
            self.take(tflm.structure_bytes(fields, self.pointer_bytes), ALIGNMENT_BYTES)


def _allocators(tail: _Tail, *, wheel: bool) -> None:
    tail.structures(tflm.WHEEL_ARENA_ALLOCATOR if wheel else tflm.ARENA_ALLOCATOR)
    tail.structures(tflm.PLANNER)
    tail.structures(tflm.WHEEL_MICRO_ALLOCATOR if wheel else tflm.MICRO_ALLOCATOR)
    tail.structures(tflm.BUILTIN_DATA_ALLOCATOR)


def _graph(tail: _Tail, facts: GraphFacts, *, wheel: bool) -> None:
    tail.structures(tflm.WHEEL_SUBGRAPH_ALLOCATIONS if wheel else tflm.SUBGRAPH_ALLOCATIONS)
    tail.structures(tflm.EVAL_TENSOR, len(facts.tensors))
    tail.structures(tflm.NODE_AND_REGISTRATION, len(facts.operators))
    for operator in facts.operators:
        tail.structures(_structures(operator).parameters)


def _kernels(tail: _Tail, facts: GraphFacts, scratch: int, *, wheel: bool) -> int:
    """Take what kernels keep, and return the most that is used while one of them looks at its tensors."""
    for operator in facts.operators:
        structures = _structures(operator)
        tail.kept(structures.kept + structures.compressed if wheel else structures.kept)
    most = 0
    for operator in facts.operators:
        for size_bytes in _prepared(operator, facts, tail.pointer_bytes):
            tail.take(size_bytes, ALIGNMENT_BYTES)
        looked_at = _Tail(tail.pointer_bytes)
        for number in (*operator.inputs, *operator.outputs):
            if number >= 0:
                _tensor(looked_at, facts.tensors[number])
        most = max(most, tail.used_bytes + looked_at.used_bytes)
    return most + _request_bytes(scratch, tail.pointer_bytes)


def _structures(operator: OperatorFacts) -> tflm.OperatorStructures:
    return tflm.OPERATORS.get(operator.name, tflm.UNKNOWN_OPERATOR)


def _prepared(operator: OperatorFacts, facts: GraphFacts, pointer_bytes: int) -> Sequence[int]:
    """Return what a kernel asks for once it knows its tensors: a multiplier and shift a channel, tables, shapes."""
    inputs = [facts.tensors[number] for number in operator.inputs if number >= 0]
    if operator.name in _CHANNEL_AXIS and len(inputs) > 1:
        return (4 * inputs[1].shape[_CHANNEL_AXIS[operator.name]],) * 2
    if operator.name == "FULLY_CONNECTED" and len(inputs) > 1 and _quantized_per_channel(inputs):
        return (4 * len(inputs[1].scales),) * 2
    if operator.name == "SOFTMAX" and inputs[0].dtype == "int16":
        return (2 * tflm.LOOKUP_ENTRIES,) * 2
    if operator.name in _COPIES_SHAPE:
        return (_array_bytes(len(facts.tensors[operator.outputs[0]].shape)),)
    if operator.name == "BATCH_MATMUL" and len(inputs) > 1:
        return _matrices(operator, inputs, pointer_bytes)
    if operator.name == "LOG_SOFTMAX" and inputs[0].quantized:
        return (tflm.structure_bytes(tflm.LOG_SOFTMAX_OF_INTEGERS, pointer_bytes),)
    if operator.name in _WIDER_SUMS and inputs[0].dtype == "int8":
        return (4 * _WIDER_SUMS[operator.name],)
    return ()


def _matrices(operator: OperatorFacts, inputs: Sequence[TensorFacts], pointer_bytes: int) -> Sequence[int]:
    """A multiplier where they are integers, transposed copies, and a shape: the kernel multiplies rows with rows."""
    turned = [inputs[0]] if "adjX" in operator.flags else []
    turned += [] if "adjY" in operator.flags else [inputs[1]]
    multiplier = (4 * 7,) if inputs[0].quantized else ()
    structure_bytes = tflm.structure_bytes(tflm.EVAL_TENSOR, pointer_bytes)
    copies = [(structure_bytes, _array_bytes(len(each.shape)), tensor_bytes(each)) for each in turned]
    shape_bytes = _array_bytes(max(len(each.shape) for each in inputs))
    return (*multiplier, *(size_bytes for copy in copies for size_bytes in copy), shape_bytes)


def _array_bytes(length: int) -> int:
    """Return the size of an array of integers that says its length."""
    return 4 + 4 * length


def _quantized_per_channel(inputs: Sequence[TensorFacts]) -> bool:
    return inputs[0].quantized and len(inputs[1].scales) > 1


def _tensor(tail: _Tail, tensor: TensorFacts) -> None:
    """An input or output as an application sees it, with its quantization."""
    tail.structures(tflm.TENSOR)
    if tensor.scales and tensor.zero_points:
        tail.structures(tflm.AFFINE_QUANTIZATION)
        tail.take(_array_bytes(len(tensor.scales)), 4)


def _request_bytes(scratch: int, pointer_bytes: int) -> int:
    """Return the list of scratch requests at the arena's start, with room for those of one more kernel."""
    count = scratch + tflm.SCRATCH_REQUESTS_PER_OPERATOR
    return aligned(tflm.structure_bytes(tflm.SCRATCH_REQUEST, pointer_bytes) * count)


def _planning_bytes(facts: GraphFacts, plan: Plan, scratch: int, pointer_bytes: int) -> int:
    """Return what the planner needs beside the structures while it plans, in the place of the activations."""
    infos = tflm.structure_bytes(tflm.ALLOCATION_INFO, pointer_bytes) * (len(facts.tensors) + scratch)
    planned = tflm.structure_bytes(tflm.PLANNED_BUFFER, pointer_bytes) * len(plan.buffers)
    return _request_bytes(scratch, pointer_bytes) + aligned(pointer_bytes + infos) + aligned(planned)


def _cycles(operator: OperatorFacts, facts: GraphFacts, cycles_per_mac: float) -> float:
    output = facts.tensors[operator.outputs[0]]
    work = macs(operator, facts)
    if work:
        return work * cycles_per_mac * _WIDER.get(output.dtype, 1.0)
    return 0.0 if operator.name == "RESHAPE" else elements(output) * _CYCLES_PER_ELEMENT


def _cycles_per_mac(profile: Profile) -> float:
    if profile.cpu.architecture == "x86_64":
        return _HOST_CYCLES_PER_MAC
    return next(cycles for feature, cycles in _CYCLES_PER_MAC if not feature or feature in profile.cpu.features)


def _method(facts: GraphFacts, profile: Profile) -> str:
    parts = []
    if profile.runtime.kind == "tflm":
        unknown = sorted({o.name for o in facts.operators if o.name not in tflm.OPERATORS})
        own = " (CMSIS-NN's own scratch comes on top)" if "cmsis" in profile.runtime.kernels.lower() else ""
        parts.append(f"arena: TFLM's structures and its reference kernels' scratch{own}")
        parts += [f"assumed for {', '.join(unknown)}"] if unknown else []
    if profile.accelerator is not None:
        parts.append(f"latency: the compiler's estimate for {profile.accelerator.id}, not measured")
    elif profile.cpu.clock_hz is not None:
        parts.append(
            f"latency: {_cycles_per_mac(profile):g} cycles a multiplication in 8 bits at {profile.cpu.clock_hz} Hz, "
            "uncalibrated"
        )
    return "; ".join(["flash: the model's bytes, without the firmware's code", *parts])
