# SPDX-License-Identifier: Apache-2.0
"""Random cases of the operators that do not multiply weights: pools, sums, activations, moves."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.operator_cases.case import Case, GraphWriter
from benchmarks.operator_cases.drawing import Draw
from converter.c.core.pooling import along
from converter.c.core.program import Operator

Array = npt.NDArray[Any]
_ELEMENTS = 700
_WORDS = {"int8": np.int8, "int32": np.int32, "float32": np.float32}


def _one(row: str, name: str, draw: Draw, shape: Sequence[int], made: Sequence[int], **options: Any) -> Case:
    """Return a case of one input and one output that share scale and zero point."""
    scale, zero = draw.scale_at_a_bound() if draw.chance(0.3) else draw.scale(), draw.zero_point()
    graph = GraphWriter()
    given, out = graph.tensor(shape, scale, zero), graph.tensor(made, scale, zero)
    graph.operator(name, [given], [out], **options)
    return graph.case(row, {given: draw.bytes(shape)}, [out])


def _pool(row: str, name: str) -> Callable[[Draw], Case]:
    def case(draw: Draw) -> Case:
        height, width, channels = draw.size(1, 20), draw.size(1, 20), draw.size(1, 20)
        window = [draw.size(1, height), draw.size(1, width)]
        if draw.chance(0.2):
            window = [height, width]
        options = {
            "padding": draw.size(0, 1), "strideH": draw.size(1, 3), "strideW": draw.size(1, 3),
            "filterHeight": window[0], "filterWidth": window[1], "fusedActivationFunction": draw.activation(),
        }  # fmt: skip
        operator = Operator(0, name, (), (), options)
        rows = along(operator, height, window[0], options["strideH"]).outputs
        columns = along(operator, width, window[1], options["strideW"]).outputs
        batches = draw.one_of((1, 1, 2))
        return _one(row, name, draw, (batches, height, width, channels), (batches, rows, columns, channels), **options)

    return case


def _mean(draw: Draw) -> Case:
    shape = [draw.size(1, 4), *draw.sizes(draw.size(1, 3), 1, 25)]
    axes = sorted(set(draw.sizes(draw.size(1, 3), 0, len(shape) - 1)))
    keep = draw.chance()
    made = [1 if place in axes else size for place, size in enumerate(shape) if keep or place not in axes]
    graph = GraphWriter()
    given_scale, made_scale = draw.scales_near_ties() if draw.chance() else (draw.scale(), draw.scale())
    given_ends, made_ends = (given_scale, draw.zero_point()), (made_scale, draw.zero_point())
    given = graph.tensor(shape, *given_ends)
    numbers = graph.integers([place - len(shape) if draw.chance(0.3) else place for place in axes])
    out = graph.tensor(made, *(given_ends if draw.chance() else made_ends))
    graph.operator("MEAN", [given, numbers], [out], keepDims=keep)
    return graph.case("mean", {given: draw.bytes(shape)}, [out])


def _operand_shapes(draw: Draw, *, broadcast: bool) -> tuple[list[int], list[int], list[int]]:
    if not broadcast:
        shape = [draw.size(1, 2), draw.size(1, 30), draw.size(1, 30)]
        return shape, shape, shape
    made = [draw.size(1, 3), *draw.sizes(draw.size(1, 3), 1, 12)]
    a, b = list(made), list(made)
    for place in range(len(made)):
        cut = draw.size(0, 3)
        a[place] = 1 if cut == 0 else made[place]
        b[place] = 1 if cut == 1 else made[place]
    while len(b) > 1 and b[0] == 1 and draw.chance():
        b.pop(0)
    return (a, b, made) if draw.chance() else (b, a, made)


def _binary(row: str, name: str, *, broadcast: bool = False) -> Callable[[Draw], Case]:
    def case(draw: Draw) -> Case:
        a_shape, b_shape, made = _operand_shapes(draw, broadcast=broadcast)
        graph = GraphWriter()
        constant = draw.size(0, 5) if broadcast else 0
        operands, inputs = [], {}
        *scales, made_scale = _scales_near_ties(draw, name) if draw.chance() else [draw.scale() for _ in range(3)]
        made_scale = draw.scale_at_a_bound() if draw.chance(0.1) else made_scale
        for place, shape in enumerate((a_shape, b_shape)):
            data = draw.bytes(shape)
            fixed = constant == place + 1
            operands.append(graph.tensor(shape, scales[place], draw.zero_point(), data=data if fixed else None))
            if not fixed:
                inputs[operands[-1]] = data
        if draw.chance(0.05) and a_shape == made and not constant:
            operands[1], inputs = operands[0], {operands[0]: inputs[operands[0]]}
        out = graph.tensor(made, made_scale, draw.zero_point())
        graph.operator(name, operands, [out], fusedActivationFunction=draw.activation())
        return graph.case(row, inputs, [out])

    return case


def _scales_near_ties(draw: Draw, name: str) -> tuple[float, float, float]:
    """Return scales of both operands and the result such that some answers are at the edge between two."""
    if name == "MUL":
        a, b = draw.scale(), draw.scale()
        return a, b, float(np.float32(a * b * 2 * draw.size(40, 4000) / (2 * draw.size(0, 99) + 1)))
    given, made = draw.scales_near_ties()
    return given, given, made


def _every_byte(draw: Draw) -> Array:
    return np.concatenate([np.arange(-128, 128), draw.random.integers(-128, 128, draw.size(250, 400))]).astype(np.int8)


def _activation(
    row: str, name: str, *, made: tuple[float, int] | None = None, alpha: bool = False, ratio: float = 1e9
) -> Callable[[Draw], Case]:
    def case(draw: Draw) -> Case:
        given_scale, made_scale = draw.scales_near_ties() if draw.chance() else (draw.scale(), draw.scale())
        made_scale = draw.scale_at_a_bound() if draw.chance(0.2) else max(made_scale, given_scale / ratio)
        graph = GraphWriter()
        data = _every_byte(draw)[None]
        given = graph.tensor(data.shape, draw.scale(1e-3, 0.5) if made else given_scale, draw.zero_point())
        if name == "RELU6" and draw.chance():
            made_ends = (graph.values[given].scales[0], graph.values[given].zero_point)
        else:
            made_ends = made or (made_scale, draw.zero_point())
        out = graph.tensor(data.shape, *made_ends)
        options = {"alpha": draw.one_of((draw.real(0.001, 1.5), draw.real(-1.0, 0.0), 0.0))} if alpha else {}
        graph.operator(name, [given], [out], **options)
        return graph.case(row, {given: data}, [out])

    return case


def _softmax(draw: Draw) -> Case:
    shape = [*draw.sizes(draw.size(0, 2), 1, 5), draw.size(1, 60)]
    shape = [max(1, _ELEMENTS // math.prod(shape)), *shape]
    graph = GraphWriter()
    given, out = graph.tensor(shape, draw.scale(1e-3, 1.0), draw.zero_point()), graph.tensor(shape, 1 / 256, -128)
    graph.operator("SOFTMAX", [given], [out], beta=draw.one_of((1.0, 0.5, 2.0)))
    return graph.case("softmax", {given: draw.bytes(shape)}, [out])


def _quantize(draw: Draw) -> Case:
    scale, zero = draw.scale(), draw.zero_point()
    halves = (draw.random.integers(-300, 300, 200) + 0.5) * np.float32(scale)
    spread = draw.random.normal(0, 60 * scale, 400)
    far = draw.random.choice([1.0, -1.0], 20) * 10.0 ** draw.random.uniform(1, 5, 20)
    data = np.concatenate([halves, spread, far]).astype(np.float32)[None]
    graph = GraphWriter()
    given, out = graph.tensor(data.shape, dtype="float32"), graph.tensor(data.shape, scale, zero)
    graph.operator("QUANTIZE", [given], [out], version=1)
    return graph.case("quantize (float32)", {given: data}, [out])


def _dequantize(draw: Draw) -> Case:
    data = _every_byte(draw)[None]
    graph = GraphWriter()
    given = graph.tensor(data.shape, draw.scale(1e-6, 10.0), draw.zero_point())
    out = graph.tensor(data.shape, dtype="float32")
    graph.operator("DEQUANTIZE", [given], [out])
    return graph.case("dequantize", {given: data}, [out])


def _resize(draw: Draw) -> Case:
    shape, made = [1, *draw.sizes(2, 1, 12), draw.size(1, 8)], draw.sizes(2, 1, 16)
    aligned = draw.chance()
    graph = GraphWriter()
    ends = draw.scale(), draw.zero_point()
    given, sizes = graph.tensor(shape, *ends), graph.integers(made)
    out = graph.tensor([1, *made, shape[3]], *ends)
    half = not aligned and draw.chance()
    graph.operator("RESIZE_NEAREST_NEIGHBOR", [given, sizes], [out], alignCorners=aligned, halfPixelCenters=half)
    return graph.case("resize nearest", {given: draw.bytes(shape)}, [out])


class _Elements:
    """Tensors of one type, scale and zero point: moves carry int8, int32 and float32."""

    def __init__(self, draw: Draw, graph: GraphWriter) -> None:
        self._draw, self._graph = draw, graph
        self.dtype = draw.one_of(("int8", "int8", "int8", "int32", "float32"))
        self._ends = (draw.scale(), draw.zero_point()) if self.dtype == "int8" else (None, 0)

    def tensor(self, shape: Sequence[int], data: Array | None = None) -> int:
        return self._graph.tensor(shape, *self._ends, dtype=self.dtype, data=data)

    def data(self, shape: Sequence[int]) -> Array:
        if self.dtype == "int8":
            return self._draw.bytes(shape)
        return self._draw.random.integers(-(1 << 20), 1 << 20, tuple(shape)).astype(_WORDS[self.dtype])


def _pad(row: str, name: str) -> Callable[[Draw], Case]:
    def case(draw: Draw) -> Case:
        graph = GraphWriter()
        elements = _Elements(draw, graph)
        shape = draw.sizes(draw.size(1, 4), 1, 9)
        padding = [draw.sizes(2, 0, draw.one_of((0, 2, 3))) for _ in shape]
        made = [before + size + after for size, (before, after) in zip(shape, padding, strict=True)]
        operands = [elements.tensor(shape), graph.integers(padding)]
        if name == "PADV2":
            value = draw.size(-128, 127) if elements.dtype == "int8" else draw.one_of((0, -1))
            value = 0 if elements.dtype == "float32" else value
            operands.append(elements.tensor([1], np.array([value], _WORDS[elements.dtype])))
        out = elements.tensor(made)
        graph.operator(name, operands, [out])
        return graph.case(row, {operands[0]: elements.data(shape)}, [out])

    return case


def _concatenation(draw: Draw) -> Case:
    graph = GraphWriter()
    elements = _Elements(draw, graph)
    shape = draw.sizes(draw.size(1, 4), 1, 8)
    axis, count = draw.size(0, len(shape) - 1), draw.size(1, 5)
    inputs: dict[int, Array] = {}
    operands, total = [], 0
    for place in range(count):
        part = [*shape[:axis], draw.size(1, 12), *shape[axis + 1 :]]
        total += part[axis]
        data = elements.data(part)
        fixed = place > 0 and draw.chance(0.15)
        operands.append(elements.tensor(part, data if fixed else None))
        if not fixed:
            inputs[operands[-1]] = data
    out = elements.tensor([*shape[:axis], total, *shape[axis + 1 :]])
    graph.operator("CONCATENATION", operands, [out], axis=axis - len(shape) if draw.chance() else axis)
    return graph.case("concatenation", inputs, [out])


def _transpose(draw: Draw) -> Case:
    graph = GraphWriter()
    elements = _Elements(draw, graph)
    rank = draw.size(1, 5)
    shape = draw.sizes(rank, 1, (200, 30, 11, 7, 5)[rank - 1])
    order = [int(place) for place in draw.random.permutation(rank)]
    given, permutation = elements.tensor(shape), graph.integers(order)
    out = elements.tensor([shape[place] for place in order])
    graph.operator("TRANSPOSE", [given, permutation], [out])
    return graph.case("transpose", {given: elements.data(shape)}, [out])


def _same_bytes(draw: Draw) -> Case:
    graph = GraphWriter()
    elements = _Elements(draw, graph)
    rows, columns = draw.size(2, 30), draw.size(2, 40)
    name = draw.one_of(("RESHAPE", "SQUEEZE", "EXPAND_DIMS"))
    given_shape = [1, rows, columns] if name == "SQUEEZE" else [rows, columns]
    made = {"RESHAPE": [columns, 1, rows], "SQUEEZE": [rows, columns], "EXPAND_DIMS": [1, rows, columns]}[name]
    given = elements.tensor(given_shape)
    more = {"RESHAPE": [graph.integers(made)], "SQUEEZE": [], "EXPAND_DIMS": [graph.integers([0])]}[name]
    out = elements.tensor(made)
    graph.operator(name, [given, *more], [out])
    return graph.case("reshape, squeeze, expand dims", {given: elements.data(given_shape)}, [out])


def _strided_slice(draw: Draw) -> Case:
    graph = GraphWriter()
    elements = _Elements(draw, graph)
    shape = [draw.size(1, 4), *draw.sizes(draw.size(1, 3), 6, 20)]
    while True:
        begins, ends = ([draw.size(-size - 2, size + 2) for size in shape] for _ in range(2))
        strides = [draw.one_of((1, 1, 2, 3, -1, -2)) for _ in shape]
        masks = {name: draw.size(0, 15) if draw.chance() else 0 for name in ("beginMask", "endMask")}
        masks["shrinkAxisMask"] = draw.one_of((0, 0, 1, 2))
        data = elements.data(shape)
        wanted = sliced(data, begins, ends, strides, masks)
        if wanted is not None and wanted.size > 2 + data.size // 20:
            break
    given, more = elements.tensor(shape), [graph.integers(numbers) for numbers in (begins, ends, strides)]
    out = elements.tensor(wanted.shape)
    graph.operator("STRIDED_SLICE", [given, *more], [out], **masks)
    return graph.case("strided slice", {given: data}, [out])


def sliced(
    data: Array, begins: Sequence[int], ends: Sequence[int], strides: Sequence[int], masks: Mapping[str, int]
) -> Array | None:
    """Return what Python's own slices take, or None where an index is outside or a stride is negative at one index."""
    parts: list[int | slice] = []
    for place, (size, begin, end, stride) in enumerate(zip(data.shape, begins, ends, strides, strict=True)):
        begin_masked, end_masked, shrunk = (
            masks[name] >> place & 1 for name in ("beginMask", "endMask", "shrinkAxisMask")
        )
        if shrunk:
            if begin_masked or end_masked or not -size <= begin < size or stride < 0:
                return None
            parts.append(begin)
        else:
            parts.append(slice(None if begin_masked else begin, None if end_masked else end, stride))
    return np.ascontiguousarray(data[tuple(parts)])


def _slice(draw: Draw) -> Case:
    graph = GraphWriter()
    elements = _Elements(draw, graph)
    shape = draw.sizes(draw.size(2, 4), 3, 20)
    begins = [draw.size(0, size - 1) for size in shape]
    counts = [draw.size(1, size - begin) for size, begin in zip(shape, begins, strict=True)]
    open_ended = [
        begin + count == size and draw.chance() for size, begin, count in zip(shape, begins, counts, strict=True)
    ]
    sizes = [-1 if to_end else count for count, to_end in zip(counts, open_ended, strict=True)]
    given, more = elements.tensor(shape), [graph.integers(begins), graph.integers(sizes)]
    out = elements.tensor(counts)
    graph.operator("SLICE", [given, *more], [out])
    return graph.case("slice", {given: elements.data(shape)}, [out])


def _split(draw: Draw) -> Case:
    graph = GraphWriter()
    elements = _Elements(draw, graph)
    shape, count = draw.sizes(draw.size(1, 4), 1, 9), draw.size(1, 4)
    axis = draw.size(0, len(shape) - 1)
    even = draw.chance()
    parts = [draw.size(1, 9)] * count if even else draw.sizes(count, 1, 9)
    shape[axis] = sum(parts)
    given, place = elements.tensor(shape), graph.integers(axis - len(shape) if draw.chance() else axis)
    sizes = graph.integers(parts)
    made = [elements.tensor([*shape[:axis], part, *shape[axis + 1 :]]) for part in parts]
    if even:
        graph.operator("SPLIT", [place, given], made, numSplits=count)
    else:
        graph.operator("SPLIT_V", [given, sizes, place], made, numSplits=count)
    return graph.case("split", {given: elements.data(shape)}, made)


def _streaming(draw: Draw) -> Case:
    """A window over the last inputs, kept in a variable: drop the oldest, add the newest (or both in turn), write back.

    Two in three give it first values; the others begin as the runtime does.
    """
    rows, columns = draw.size(2, 12), draw.size(1, 16)
    graph = GraphWriter()
    ends = draw.scale(), draw.zero_point()
    handle, given = graph.tensor([], dtype="resource"), graph.tensor([1, 1, columns], *ends)
    old, new = graph.tensor([1, rows, columns], *ends), graph.tensor([1, rows, columns], *ends)
    begin, sizes = graph.integers([0, 1, 0]), graph.integers([1, -1, columns])
    name = {"container": "", "sharedName": "window"}
    if draw.chance(0.66):
        first = graph.tensor([1, rows, columns], *ends, data=draw.bytes([1, rows, columns]))
        once_handle = graph.tensor([], dtype="resource")
        graph.operator_once("VAR_HANDLE", [], [once_handle], **name)
        graph.operator_once("ASSIGN_VARIABLE", [once_handle, first], [])
        graph.operator("CALL_ONCE", [], [], initSubgraphIndex=1)
    graph.operator("VAR_HANDLE", [], [handle], **name)
    graph.operator("READ_VARIABLE", [handle], [old])
    if draw.chance():
        kept = graph.tensor([1, rows - 1, columns], *ends)
        graph.operator("SLICE", [old, begin, sizes], [kept])
        graph.operator("CONCATENATION", [kept, given], [new], axis=1)
    else:
        longer = graph.tensor([1, rows + 1, columns], *ends)
        graph.operator("CONCATENATION", [old, given], [longer], axis=1)
        graph.operator("SLICE", [longer, begin, sizes], [new])
    graph.operator("ASSIGN_VARIABLE", [handle, new], [])
    return graph.case("state variables", [{given: draw.bytes([1, 1, columns])} for _ in range(6)], [new])


#: The campaign's rows, and what draws a case of each.
ROWS: Mapping[str, Callable[[Draw], Case]] = {
    "average pool": _pool("average pool", "AVERAGE_POOL_2D"),
    "max pool": _pool("max pool", "MAX_POOL_2D"),
    "mean": _mean,
    "add": _binary("add", "ADD"),
    "add, broadcast": _binary("add, broadcast", "ADD", broadcast=True),
    "sub": _binary("sub", "SUB"),
    "sub, broadcast": _binary("sub, broadcast", "SUB", broadcast=True),
    "mul": _binary("mul", "MUL"),
    "mul, broadcast": _binary("mul, broadcast", "MUL", broadcast=True),
    "logistic": _activation("logistic", "LOGISTIC", made=(1 / 256, -128)),
    "tanh": _activation("tanh", "TANH", made=(1 / 128, 0)),
    "relu": _activation("relu", "RELU"),
    "relu6": _activation("relu6", "RELU6"),
    "relu -1 to 1": _activation("relu -1 to 1", "RELU_N1_TO_1"),
    "relu 0 to 1": _activation("relu 0 to 1", "RELU_0_TO_1"),
    "leaky-relu": _activation("leaky-relu", "LEAKY_RELU", alpha=True),
    "hard-swish": _activation("hard-swish", "HARD_SWISH", ratio=127.0),
    "quantize (int8)": _activation("quantize (int8)", "QUANTIZE"),
    "quantize (float32)": _quantize,
    "dequantize": _dequantize,
    "softmax": _softmax,
    "resize nearest": _resize,
    "pad": _pad("pad", "PAD"),
    "pad v2": _pad("pad v2", "PADV2"),
    "concatenation": _concatenation,
    "transpose": _transpose,
    "reshape, squeeze, expand dims": _same_bytes,
    "strided slice": _strided_slice,
    "slice": _slice,
    "split": _split,
    "state variables": _streaming,
}
