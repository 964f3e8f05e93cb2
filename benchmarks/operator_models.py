# SPDX-License-Identifier: Apache-2.0
"""Models of a single operator, for every operator that small devices meet, in floats and in 8- and 16-bit integers.

They are built from TFLite's schema, with no converter between: what a runtime makes of one says what it makes of the
operator. :func:`build` writes one, :data:`OPERATORS` lists them, :func:`sample` draws real-valued inputs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

Array = npt.NDArray[Any]
Data = Literal["float32", "int8", "int16"]
DATA: tuple[Data, ...] = ("float32", "int8", "int16")
Range = tuple[float, float]
_LEVELS = {"int8": (-128, 127), "int16": (-32768, 32767)}
_UNIT: Range = (-1.0, 1.0)


class Constant(NamedTuple):
    """An input that is a constant: whole numbers as they are, ``real`` ones in the data's type.

    ``channels`` is the axis along which weights have a scale each; ``bias`` has the scale of data times weights.
    """

    values: Array
    channels: int | None = None
    bias: bool = False

    @property
    def real(self) -> bool:
        """Tell whether the values are real ones, and no indices or sizes."""
        return self.values.dtype.kind == "f"


@dataclass(frozen=True)
class SingleOperator:
    """One operator: its inputs (the shape of what flows in, or a constant), its outputs, its options.

    ``made`` is the range of the outputs, which integers are scaled to; None: the input's own scale. ``given`` is that
    of the inputs. ``fixed`` is the scale and zero point that kernels ask for, by type. ``out`` is another type of the
    outputs; ``version`` one that the options ask for.
    """

    name: str
    inputs: tuple[tuple[int, ...] | Constant, ...]
    outputs: tuple[tuple[int, ...], ...]
    options: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    made: Range | None = None
    given: Range = _UNIT
    fixed: Mapping[str, tuple[float, int]] = field(default_factory=dict)
    out: str | None = None
    version: int = 1
    variant: str = ""

    @property
    def label(self) -> str:
        """The operator's name, and what tells this case of it from others."""
        return f"{self.name} {self.variant}".strip()


def build(operator: SingleOperator, data: Data) -> bytes:
    """Return a model of this operator alone."""
    return _Builder(operator, data).model()


def sample(operator: SingleOperator, seed: int) -> list[Array]:
    """Return real-valued inputs: one array an input that flows in."""
    draw = np.random.default_rng(seed)
    return [draw.uniform(*operator.given, shape).astype(np.float32) for shape in operator.inputs if not _fixed(shape)]


def _fixed(given: tuple[int, ...] | Constant) -> bool:
    return isinstance(given, Constant)


class _Builder:
    def __init__(self, operator: SingleOperator, data: Data) -> None:
        self._operator, self._data = operator, data
        self._model, self._graph = schema.ModelT(), schema.SubGraphT()
        self._model.buffers, self._graph.tensors = [schema.BufferT()], []
        self._weight_scales: Array = np.ones(1)

    def model(self) -> bytes:
        asked = self._operator
        scale = self._scale(asked.given, {})
        inputs = [self._constant(given) if isinstance(given, Constant) else self._tensor(given, self._data, scale)
                  for given in asked.inputs]  # fmt: skip
        made = scale if asked.made is None else self._scale(asked.made, asked.fixed)
        outputs = [self._tensor(shape, asked.out or self._data, made) for shape in asked.outputs]
        node, code = schema.OperatorT(), schema.OperatorCodeT()
        node.inputs, node.outputs = np.array(inputs, np.int32), np.array(outputs, np.int32)
        if asked.options is not None:
            node.builtinOptions = getattr(schema, f"{asked.options}T")()
            node.builtinOptionsType = getattr(schema.BuiltinOptions, asked.options)
            for name, value in asked.settings.items():
                setattr(node.builtinOptions, name, value)
        code.builtinCode = getattr(schema.BuiltinOperator, asked.name)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), asked.version
        self._graph.operators = [node]
        self._graph.inputs = np.array(
            [n for n, given in zip(inputs, asked.inputs, strict=True) if not _fixed(given)], np.int32
        )
        self._graph.outputs = np.array(outputs, np.int32)
        self._model.version, self._model.operatorCodes, self._model.subgraphs = 3, [code], [self._graph]
        builder = flatbuffers.Builder(1024)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())

    def _scale(self, given: Range, fixed: Mapping[str, tuple[float, int]]) -> tuple[float, int]:
        if self._data == "float32":
            return (0.0, 0)
        if self._data in fixed:
            return fixed[self._data]
        low, high = min(given[0], 0.0), max(given[1], 0.0)
        if self._data == "int16":
            return (max(-low, high) / 32767, 0)
        scale = (high - low) / 255
        return (scale, round(-128 - low / scale))

    def _tensor(self, shape: tuple[int, ...], dtype: str, scale: tuple[float, int]) -> int:
        quantized = ([scale[0]], [scale[1]]) if dtype in _LEVELS else ([], [])
        return self._add(shape, dtype, *quantized)

    def _constant(self, constant: Constant) -> int:
        values = constant.values
        if not constant.real:
            return self._add(values.shape, values.dtype.name, [], [], values)
        if self._data == "float32":
            return self._add(values.shape, "float32", [], [], values.astype(np.float32))
        if constant.bias:
            scales = self._scale(self._operator.given, {})[0] * self._weight_scales
            width = "int64" if self._data == "int16" else "int32"
            stored = np.rint(values / scales).astype(width)
            return self._add(values.shape, width, scales.tolist(), [0] * len(scales), stored)
        dtype = self._data if constant.channels is None else "int8"
        limit = _LEVELS[dtype][1]
        axes = tuple(axis for axis in range(values.ndim) if axis != constant.channels)
        largest = np.abs(values).max(axis=None if constant.channels is None else axes, keepdims=True)
        scales = largest.reshape(-1) / limit
        if constant.channels is not None:
            self._weight_scales = scales
        stored = np.rint(values / largest * limit).astype(dtype)
        return self._add(values.shape, dtype, scales.tolist(), [0] * len(scales), stored, axis=constant.channels or 0)

    def _add(
        self,
        shape: tuple[int, ...],
        dtype: str,
        scales: list[float],
        zero_points: list[int],
        values: Array | None = None,
        axis: int = 0,
    ) -> int:
        tensor = schema.TensorT()
        tensor.shape, tensor.name = np.array(shape, np.int32), b"t%d" % len(self._graph.tensors)
        tensor.type = getattr(schema.TensorType, dtype.upper())
        if scales:
            tensor.quantization = schema.QuantizationParametersT()
            tensor.quantization.scale = np.array(scales, np.float32)
            tensor.quantization.zeroPoint = np.array(zero_points, np.int64)
            tensor.quantization.quantizedDimension = axis
        if values is not None:
            tensor.buffer = len(self._model.buffers)
            self._model.buffers.append(schema.BufferT())
            self._model.buffers[-1].data = np.frombuffer(np.ascontiguousarray(values).tobytes(), np.uint8)
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1


def _real(*shape: int, seed: int = 0) -> Array:
    return np.random.default_rng(seed).uniform(-1.0, 1.0, shape)


def _whole(*values: Any) -> Constant:
    return Constant(np.array(values[0] if len(values) == 1 else values, np.int32))


_IMAGE = (1, 6, 5, 4)
_ROW = (1, 12)
_POSITIVE: Range = (0.1, 1.0)
_LOGISTIC = {"int8": (1 / 256, -128), "int16": (1 / 32768, 0)}
_TANH = {"int8": (1 / 128, 0), "int16": (1 / 32768, 0)}
_NORM = {"int8": (1 / 128, 0)}
_LOG_SOFTMAX = {"int8": (16 / 256, 127)}
_AXES = _whole(1, 2)
_POOL = {"padding": 0, "strideW": 2, "strideH": 2, "filterWidth": 3, "filterHeight": 3}
_CONV = {"padding": 0, "strideW": 1, "strideH": 1, "dilationWFactor": 1, "dilationHFactor": 1}


def _alone(name: str, made: Range | None, options: str | None = None, **more: Any) -> SingleOperator:
    """An operator that makes as many values as it takes."""
    return SingleOperator(name, (_IMAGE,), (_IMAGE,), options, made=made, **more)


def _pair(name: str, made: Range | None, options: str | None = None, **more: Any) -> SingleOperator:
    """An operator of two tensors, one of which flows in and one of which is constant."""
    return SingleOperator(name, (_IMAGE, Constant(_real(*_IMAGE, seed=3))), (_IMAGE,), options, made=made, **more)


def _weights(*shape: int, channels: int) -> Constant:
    return Constant(_real(*shape, seed=1), channels=channels)


def _bias(size: int) -> Constant:
    return Constant(_real(size, seed=2), bias=True)


OPERATORS: tuple[SingleOperator, ...] = (
    SingleOperator("CONV_2D", (_IMAGE, _weights(6, 3, 3, 4, channels=0), _bias(6)), ((1, 6, 5, 6),), "Conv2DOptions",
                   _CONV, (-8.0, 8.0)),
    SingleOperator("CONV_2D", (_IMAGE, _weights(6, 3, 3, 2, channels=0), _bias(6)), ((1, 6, 5, 6),), "Conv2DOptions",
                   _CONV, (-8.0, 8.0), version=6, variant="in groups"),
    SingleOperator("DEPTHWISE_CONV_2D", (_IMAGE, _weights(1, 3, 3, 8, channels=3), _bias(8)), ((1, 6, 5, 8),),
                   "DepthwiseConv2DOptions", {**_CONV, "depthMultiplier": 2}, (-4.0, 4.0)),
    SingleOperator("FULLY_CONNECTED", (_ROW, _weights(5, 12, channels=0), _bias(5)), ((1, 5),),
                   "FullyConnectedOptions", {}, (-6.0, 6.0)),
    SingleOperator("TRANSPOSE_CONV", (_whole(1, 12, 10, 3), _weights(3, 2, 2, 4, channels=0), _IMAGE),
                   ((1, 12, 10, 3),), "TransposeConvOptions", {"padding": 1, "strideW": 2, "strideH": 2}, (-4.0, 4.0)),
    SingleOperator("TRANSPOSE_CONV", (_whole(1, 12, 10, 3), _weights(3, 2, 2, 4, channels=0), _IMAGE, _bias(3)),
                   ((1, 12, 10, 3),), "TransposeConvOptions", {"padding": 1, "strideW": 2, "strideH": 2}, (-4.0, 4.0),
                   version=3, variant="with bias"),
    SingleOperator("BATCH_MATMUL", ((1, 3, 8), (1, 8, 5)), ((1, 3, 5),), "BatchMatMulOptions", {}, (-5.0, 5.0)),
    SingleOperator("BATCH_MATMUL", ((1, 2, 3, 8), (1, 2, 5, 8)), ((1, 2, 3, 5),), "BatchMatMulOptions", {"adjY": True},
                   (-5.0, 5.0), variant="of rank 4, turned"),
    _pair("ADD", (-2.0, 2.0), "AddOptions"),
    _pair("SUB", (-2.0, 2.0), "SubOptions"),
    _pair("MUL", _UNIT, "MulOptions"),
    SingleOperator("MUL", (_IMAGE, Constant(_real(4, seed=3))), (_IMAGE,), "MulOptions", made=_UNIT,
                   variant="of channels"),
    SingleOperator("ADD", (_IMAGE, Constant(_real(4, seed=3))), (_IMAGE,), "AddOptions", made=(-2.0, 2.0),
                   variant="of channels"),
    SingleOperator("DIV", (_IMAGE, _IMAGE), (_IMAGE,), "DivOptions", made=(0.0, 8.0), given=(0.3, 1.0)),
    _pair("MAXIMUM", None, "MaximumMinimumOptions"),
    _pair("MINIMUM", None, "MaximumMinimumOptions"),
    _pair("SQUARED_DIFFERENCE", (0.0, 4.0), "SquaredDifferenceOptions"),
    _alone("ABS", (0.0, 1.0), "AbsOptions"),
    _alone("CEIL", None), _alone("FLOOR", None), _alone("ROUND", None),
    _alone("COS", (0.0, 1.0), "CosOptions"), _alone("SIN", _UNIT),
    _alone("ELU", _UNIT), _alone("GELU", _UNIT, "GeluOptions"),
    _alone("EXP", (0.0, 3.0), "ExpOptions"),
    _alone("HARD_SWISH", _UNIT, "HardSwishOptions"),
    _alone("LEAKY_RELU", _UNIT, "LeakyReluOptions", settings={"alpha": 0.2}),
    _alone("LOG", (-3.0, 0.0), given=_POSITIVE),
    _alone("LOGISTIC", (0.0, 1.0), fixed=_LOGISTIC),
    _alone("NEG", _UNIT, "NegOptions"),
    SingleOperator("PRELU", (_IMAGE, Constant(_real(1, 1, 4, seed=3))), (_IMAGE,), None, made=_UNIT),
    _alone("RELU", None), _alone("RELU6", None), _alone("RELU_N1_TO_1", None),
    _alone("RSQRT", (0.0, 4.0), given=_POSITIVE), _alone("SQRT", (0.0, 1.0), given=_POSITIVE),
    _alone("SQUARE", (0.0, 1.0), "SquareOptions"),
    _alone("TANH", _UNIT, fixed=_TANH),
    SingleOperator("SOFTMAX", (_ROW,), (_ROW,), "SoftmaxOptions", {"beta": 1.0}, (0.0, 1.0), fixed=_LOGISTIC),
    SingleOperator("LOG_SOFTMAX", (_ROW,), (_ROW,), "LogSoftmaxOptions", {}, (-16.0, 0.0), fixed=_LOG_SOFTMAX),
    SingleOperator("L2_NORMALIZATION", (_ROW,), (_ROW,), "L2NormOptions", {}, _UNIT, fixed=_NORM),
    SingleOperator("AVERAGE_POOL_2D", (_IMAGE,), ((1, 3, 3, 4),), "Pool2DOptions", _POOL),
    SingleOperator("MAX_POOL_2D", (_IMAGE,), ((1, 3, 3, 4),), "Pool2DOptions", _POOL),
    SingleOperator("L2_POOL_2D", (_IMAGE,), ((1, 3, 3, 4),), "Pool2DOptions", _POOL),
    SingleOperator("MEAN", (_IMAGE, _AXES), ((1, 4),), "ReducerOptions", {"keepDims": False}, _UNIT),
    SingleOperator("MEAN", (_IMAGE, _AXES), ((1, 1, 1, 4),), "ReducerOptions", {"keepDims": True}, _UNIT,
                   variant="with its axes kept"),
    SingleOperator("SUM", (_IMAGE, _AXES), ((1, 4),), "ReducerOptions", {"keepDims": False}, (-12.0, 12.0)),
    SingleOperator("REDUCE_MAX", (_IMAGE, _AXES), ((1, 4),), "ReducerOptions", {"keepDims": False}),
    SingleOperator("REDUCE_MIN", (_IMAGE, _AXES), ((1, 4),), "ReducerOptions", {"keepDims": False}),
    SingleOperator("ARG_MAX", (_ROW, _whole([1])), ((1,),), "ArgMaxOptions", {"outputType": 2}, out="int32"),
    SingleOperator("ARG_MIN", (_ROW, _whole([1])), ((1,),), "ArgMinOptions", {"outputType": 2}, out="int32"),
    SingleOperator("CONCATENATION", (_IMAGE, _IMAGE), ((1, 6, 5, 8),), "ConcatenationOptions", {"axis": 3}),
    SingleOperator("PAD", (_IMAGE, _whole([0, 0], [1, 2], [2, 1], [0, 0])), ((1, 9, 8, 4),), "PadOptions"),
    SingleOperator("PADV2", (_IMAGE, _whole([0, 0], [1, 2], [2, 1], [0, 0]), Constant(np.array([0.5]))),
                   ((1, 9, 8, 4),), "PadV2Options", given=_UNIT, variant="of another scale"),
    SingleOperator("MIRROR_PAD", (_IMAGE, _whole([0, 0], [1, 2], [2, 1], [0, 0])), ((1, 9, 8, 4),),
                   "MirrorPadOptions"),
    SingleOperator("RESHAPE", (_IMAGE, _whole(1, 30, 4)), ((1, 30, 4),), "ReshapeOptions", {"newShape": [1, 30, 4]}),
    SingleOperator("SQUEEZE", ((1, 6, 1, 4),), ((1, 6, 4),), "SqueezeOptions", {"squeezeDims": [2]}),
    SingleOperator("EXPAND_DIMS", ((1, 6, 4), _whole([2])), ((1, 6, 1, 4),), "ExpandDimsOptions"),
    SingleOperator("TRANSPOSE", (_IMAGE, _whole(0, 3, 1, 2)), ((1, 4, 6, 5),), "TransposeOptions"),
    SingleOperator("SLICE", (_IMAGE, _whole(0, 1, 1, 0), _whole(1, 3, 2, 4)), ((1, 3, 2, 4),), "SliceOptions"),
    SingleOperator("STRIDED_SLICE", (_IMAGE, _whole(0, 1, 0, 0), _whole(1, 6, 5, 4), _whole(1, 2, 1, 3)),
                   ((1, 3, 5, 2),), "StridedSliceOptions"),
    SingleOperator("SPLIT", (_whole(3), _IMAGE), ((1, 6, 5, 2), (1, 6, 5, 2)), "SplitOptions", {"numSplits": 2}),
    SingleOperator("SPLIT_V", (_IMAGE, _whole(1, 3), _whole(3)), ((1, 6, 5, 1), (1, 6, 5, 3)), "SplitVOptions",
                   {"numSplits": 2}),
    SingleOperator("PACK", (_ROW, _ROW), ((2, 1, 12),), "PackOptions", {"axis": 0, "valuesCount": 2}),
    SingleOperator("UNPACK", ((2, 12),), ((12,), (12,)), "UnpackOptions", {"axis": 0, "num": 2}),
    SingleOperator("GATHER", (_IMAGE, _whole(2, 0, 1)), ((1, 3, 5, 4),), "GatherOptions", {"axis": 1}),
    SingleOperator("RESIZE_BILINEAR", (_IMAGE, _whole(12, 10)), ((1, 12, 10, 4),), "ResizeBilinearOptions",
                   {"halfPixelCenters": True}, version=3),
    SingleOperator("RESIZE_NEAREST_NEIGHBOR", (_IMAGE, _whole(12, 10)), ((1, 12, 10, 4),),
                   "ResizeNearestNeighborOptions", {"halfPixelCenters": True}, version=3),
    SingleOperator("SPACE_TO_DEPTH", ((1, 6, 4, 4),), ((1, 3, 2, 16),), "SpaceToDepthOptions", {"blockSize": 2}),
    SingleOperator("DEPTH_TO_SPACE", (_IMAGE,), ((1, 12, 10, 1),), "DepthToSpaceOptions", {"blockSize": 2}),
    SingleOperator("SPACE_TO_BATCH_ND", ((1, 6, 4, 4), _whole(2, 2), _whole([0, 0], [0, 0])), ((4, 3, 2, 4),),
                   "SpaceToBatchNDOptions"),
    SingleOperator("BATCH_TO_SPACE_ND", ((4, 3, 2, 4), _whole(2, 2), _whole([0, 0], [0, 0])), ((1, 6, 4, 4),),
                   "BatchToSpaceNDOptions"),
    SingleOperator("TILE", (_IMAGE, _whole(1, 2, 1, 1)), ((1, 12, 5, 4),), "TileOptions"),
    SingleOperator("BROADCAST_TO", ((1, 1, 5, 4), _whole(1, 6, 5, 4)), (_IMAGE,), "BroadcastToOptions", version=2),
    SingleOperator("REVERSE_V2", (_IMAGE, _whole([2])), (_IMAGE,), "ReverseV2Options"),
    SingleOperator("CUMSUM", (_ROW, _whole(1)), (_ROW,), "CumsumOptions", {}, (-4.0, 4.0)),
    SingleOperator("GREATER", (_IMAGE, _IMAGE), (_IMAGE,), "GreaterOptions", out="bool"),
    SingleOperator("EQUAL", (_IMAGE, _IMAGE), (_IMAGE,), "EqualOptions", out="bool"),
    SingleOperator("ADD_N", (_IMAGE, _IMAGE), (_IMAGE,), "AddNOptions", {}, (-2.0, 2.0)),
    SingleOperator("FLOOR_DIV", (_IMAGE, _IMAGE), (_IMAGE,), "FloorDivOptions", {}, (0.0, 8.0), (0.3, 1.0)),
)  # fmt: skip
