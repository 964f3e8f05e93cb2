# SPDX-License-Identifier: Apache-2.0
"""The arena of TensorFlow Lite Micro: which buffers it holds, when each lives, and where the interpreter puts them.

Follows the interpreter's own code (tensorflow/lite/micro: ``micro_allocation_info.cc``,
``memory_planner/greedy_memory_planner.cc``), so that the greedy plan is equal to the device's to the byte.
Time 0 is before the first operator; operator ``i`` runs at time ``i + 1``.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

from converter.core.graph import GraphFacts, OperatorFacts, TensorFacts

#: Every buffer begins at a multiple of this many bytes (``MicroArenaBufferAlignment``).
ALIGNMENT_BYTES = 16
_ELEMENT_BYTES = {
    "float64": 8, "int64": 8, "uint64": 8, "complex64": 8, "float32": 4, "int32": 4, "uint32": 4,
    "float16": 2, "bfloat16": 2, "int16": 2, "uint16": 2, "int8": 1, "uint8": 1, "bool": 1, "int4": 1,
}  # fmt: skip
_INT_BYTES = 4
_ADDRESS_BYTES = 8
_NEVER = -1


@dataclass(frozen=True)
class Buffer:
    """What needs a place in the arena from time ``first`` through ``last``: a tensor, or a kernel's scratch (None)."""

    tensor: int | None
    size_bytes: int
    first: int
    last: int

    def lives_with(self, other: "Buffer") -> bool:
        """Tell whether both are needed at some time."""
        return self.first <= other.last and other.first <= self.last


@dataclass(frozen=True)
class Plan:
    """A place for each buffer: ``offsets[i]`` is that of ``buffers[i]``, in bytes from the arena's start.

    No plan is smaller than ``bound_bytes``; ``proved`` tells whether none is smaller than this one.
    """

    buffers: tuple[Buffer, ...]
    offsets: tuple[int, ...]
    size_bytes: int
    bound_bytes: int
    proved: bool


def live_buffers(facts: GraphFacts, variables: Collection[int] = ()) -> tuple[Buffer, ...]:
    """Return the buffers of a graph in the interpreter's order: tensors by number, then scratch by operator.

    ``variables`` are the tensors that keep their value between inferences; they lie outside the plan, as constants do.
    Scratch is what TFLM's reference kernels ask for.
    """
    lives = _lifetimes(facts)
    tensors = tuple(
        Buffer(number, size_bytes, *lives[number])
        for number, tensor in enumerate(facts.tensors)
        if not tensor.constant_bytes and number not in variables and (size_bytes := aligned(tensor_bytes(tensor)))
    )
    scratch = tuple(
        Buffer(None, aligned(size_bytes), time, time)
        for time, operator in enumerate(facts.operators, start=1)
        for size_bytes in scratch_requests(operator, facts)
    )
    return tensors + scratch


def greedy(buffers: Sequence[Buffer], fixed: Mapping[int, int] | None = None) -> Plan:
    """Return the interpreter's own plan: the largest buffer first, each into the first gap that holds it.

    ``fixed`` holds offsets of tensors, by number, that the model brings along (OfflineMemoryAllocation): they are taken
    as they are, and the others find their place around them. Among buffers of one size the last comes first.
    """
    given = {} if fixed is None else fixed
    anchored = {place: given[b.tensor] for place, b in enumerate(buffers) if b.tensor is not None and b.tensor in given}
    order = [place for place in size_order(buffers) if place not in anchored]
    return as_plan(buffers, first_fit(buffers, order, anchored))


def size_order(buffers: Sequence[Buffer]) -> list[int]:
    """Return the places of buffers, the largest first; among equals the last first, as the interpreter sorts them."""
    return sorted(range(len(buffers)), key=lambda place: (-buffers[place].size_bytes, -place))


def first_fit(
    buffers: Sequence[Buffer], order: Sequence[int], anchored: Mapping[int, int] | None = None
) -> tuple[int, ...]:
    """Return an offset for each buffer: in ``order``, each in the first gap between those that it lives with.

    ``anchored`` are offsets that stand already, by place.
    """
    offsets = dict(anchored or {})
    for place in order:
        offsets[place] = _first_gap(buffers, offsets, place)
    return tuple(offsets[place] for place in range(len(buffers)))


def as_plan(buffers: Sequence[Buffer], offsets: tuple[int, ...], *, proved: bool = False) -> Plan:
    """Return offsets as a plan; it is proved where it reaches the bound."""
    bound_bytes = lower_bound(buffers)
    size_bytes = max((offset + b.size_bytes for offset, b in zip(offsets, buffers, strict=True)), default=0)
    return Plan(tuple(buffers), offsets, size_bytes, bound_bytes, proved or size_bytes == bound_bytes)


def lower_bound(buffers: Sequence[Buffer]) -> int:
    """Return what no plan can go below: the most bytes that are needed at one time."""
    # The sum grows only where a buffer begins, so that the times of beginning are enough.
    return max(
        (sum(b.size_bytes for b in buffers if b.first <= t <= b.last) for t in {b.first for b in buffers}), default=0
    )


def faults(plan: Plan) -> Iterator[str]:
    """Tell what is wrong with a plan: one sentence for each buffer that lies badly. A sound plan has none."""
    for offset, buffer in zip(plan.offsets, plan.buffers, strict=True):
        if offset < 0 or offset % ALIGNMENT_BYTES:
            yield f"{_named(buffer)} begins at {offset}, expected a multiple of {ALIGNMENT_BYTES} from 0"
        if offset + buffer.size_bytes > plan.size_bytes:
            yield f"{_named(buffer)} ends at {offset + buffer.size_bytes}, behind the arena ({plan.size_bytes} bytes)"
    placed = list(zip(plan.offsets, plan.buffers, strict=True))
    for number, (offset, buffer) in enumerate(placed):
        for other_offset, other in placed[:number]:
            apart = offset >= other_offset + other.size_bytes or other_offset >= offset + buffer.size_bytes
            if buffer.lives_with(other) and not apart:
                yield f"{_named(other)} and {_named(buffer)} are needed together and overlap"


def tensor_bytes(tensor: TensorFacts) -> int:
    """Return how many bytes a computed tensor takes; 4-bit values take a byte each once they are unpacked."""
    return elements(tensor) * _ELEMENT_BYTES.get(tensor.dtype, 0)


def elements(tensor: TensorFacts) -> int:
    """Return how many values a tensor has."""
    return prod(tensor.shape)


def aligned(size_bytes: int, alignment: int = ALIGNMENT_BYTES) -> int:
    """Return a size rounded up to whole units of ``alignment``."""
    return -(-size_bytes // alignment) * alignment


def scratch_requests(operator: OperatorFacts, facts: GraphFacts) -> tuple[int, ...]:
    """Return the sizes in bytes that an operator's reference kernel asks for, in its order, before rounding.

    Operators that ask for none, and those whose requests are not known, have none.
    """
    tensors = [facts.tensors[number] if number >= 0 else None for number in operator.inputs]
    first = next(iter(tensors), None)
    if first is None:
        return ()
    weights = tensors[1] if len(tensors) > 1 else None
    output = facts.tensors[operator.outputs[0]]
    match operator.name:
        case "CONV_2D" | "DEPTHWISE_CONV_2D" | "FULLY_CONNECTED":
            return (elements(weights),) if weights is not None and weights.dtype == "int4" else ()
        case "TRANSPOSE_CONV":
            return _transposed_scratch(tensors, output)
        case "MEAN" | "SUM":
            return _reducer_scratch(first, weights, output, accumulates=first.dtype in ("int8", "int16"))
        case "REDUCE_MAX" | "REDUCE_MIN" | "REDUCE_ALL":
            return _reducer_scratch(first, weights, output, accumulates=False)
        case "SVDF":
            return _svdf_scratch(first, weights, output)
        case "ADD_N":  # the address of each input's data
            return (_ADDRESS_BYTES * len(operator.inputs),)
        case "MIRROR_PAD":
            return (_INT_BYTES * len(first.shape),) * 2
        case "ethos-u":  # the addresses and the sizes of what the NPU reads and writes
            return (_ADDRESS_BYTES * (len(operator.inputs) + len(operator.outputs)),) * 2
        case "UNIDIRECTIONAL_SEQUENCE_LSTM":
            state = tensors[_LSTM_CELL_STATE] if len(tensors) > _LSTM_CELL_STATE else None
            return () if state is None else (tensor_bytes(state),) * 4
    return ()


_LSTM_CELL_STATE = 19


def _transposed_scratch(tensors: list[TensorFacts | None], output: TensorFacts) -> tuple[int, ...]:
    """The accumulators, and a 16-bit bias widened to 64 (the inputs are shape, weights, data and bias)."""
    accumulator_bytes = {"int8": 4, "int16": 8}.get(output.dtype)
    if accumulator_bytes is None:
        return ()
    bias = tensors[3] if len(tensors) > 3 else None
    widened = (8 * elements(bias),) if bias is not None and bias.dtype == "int16" else ()
    return (accumulator_bytes * elements(output), *widened)


def _reducer_scratch(
    data: TensorFacts, axes: TensorFacts | None, output: TensorFacts, *, accumulates: bool
) -> tuple[int, ...]:
    sums = (_INT_BYTES * elements(output),) if accumulates else ()
    return (*sums, _INT_BYTES * len(data.shape), _INT_BYTES * (1 if axes is None else elements(axes)))


def _svdf_scratch(data: TensorFacts, weights: TensorFacts | None, output: TensorFacts) -> tuple[int, ...]:
    if weights is None:
        return ()
    filtered = _INT_BYTES * data.shape[0] * weights.shape[0]
    return (filtered, _INT_BYTES * elements(output)) if data.dtype == "int8" else (filtered,)


def _lifetimes(facts: GraphFacts) -> list[tuple[int, int]]:
    """Return when each tensor is made and last used; one that nothing touches is never."""
    first, last = [_NEVER] * len(facts.tensors), [_NEVER] * len(facts.tensors)

    def made(number: int, time: int) -> None:
        first[number] = time if first[number] == _NEVER else first[number]

    for number in facts.inputs:
        made(number, 0)
        last[number] = 0
    for time, operator in enumerate(facts.operators, start=1):
        for number in operator.outputs:
            made(number, time)
        for number in (*operator.inputs, *operator.outputs):
            if number >= 0:
                last[number] = time
    for number in facts.outputs:
        made(number, len(facts.operators))
        last[number] = len(facts.operators)
    return list(zip(first, last, strict=True))


def _first_gap(buffers: Sequence[Buffer], offsets: Mapping[int, int], place: int) -> int:
    wanted = buffers[place]
    neighbours = sorted(
        (offset, buffers[other].size_bytes) for other, offset in offsets.items() if buffers[other].lives_with(wanted)
    )
    end = 0
    for offset, size_bytes in neighbours:
        if offset - end >= wanted.size_bytes:
            break
        end = max(end, offset + size_bytes)
    return end


def _named(buffer: Buffer) -> str:
    return f"scratch of operator {buffer.first - 1}" if buffer.tensor is None else f"tensor {buffer.tensor}"
