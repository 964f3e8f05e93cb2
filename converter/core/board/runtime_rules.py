# SPDX-License-Identifier: Apache-2.0
"""What each runtime runs right, from operator, type of its data, type of its weights, and one scale or many.

Measured on LiteRT 2.3.0 (production and reference kernels), tflite-runtime 2.14.0 and the tflite-micro wheel of autumn
2026; ``benchmarks/runtime_matrix.py`` measures it again. The rules are an allow-list: a way of computing that nobody
has seen to run right is refused, with two exceptions that a run decides, not this table: operators without weights, and
on LiteRT operators with weights that are not in it (a conversion runs every model there, on both kernel sets).
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from converter.core.board.operator_releases import AFTER_ALL_KNOWN, release_of
from converter.core.board.operator_versions import is_older, required_version
from converter.core.graph import GraphFacts, OperatorFacts, TensorFacts
from edgefleet.contracts.manifest import Precision, RuntimeKind


class Mode(NamedTuple):
    """How an operator computes: the types of its data and weights, and whether each channel has a scale of its own."""

    data: str
    weights: str
    per_channel: bool = False

    def __str__(self) -> str:
        if self.weights == self.data == "float32":
            return "float32"
        scales = " per channel" if self.per_channel else " per tensor" if self.weights != "float16" else ""
        if not self.data:
            return f"{self.weights} weights{scales}"
        return f"{self.weights} weights{scales} under {self.data} activations"


class Refusal(NamedTuple):
    """Why a runtime does not run a graph right: the operator, what is wrong, and the mode that would work."""

    operator: str
    why: str
    instead: str

    def __str__(self) -> str:
        return f"{self.operator} {self.why}"


#: The release of each runtime that was measured.
MEASURED: Mapping[RuntimeKind, str] = {"litert": "2.3.0", "tflite-runtime": "2.14.0", "tflm": "1"}

_FLOAT = Mode("float32", "float32")
_INT8, _INT8_T = Mode("int8", "int8", True), Mode("int8", "int8")
_INT16, _INT16_T = Mode("int16", "int8", True), Mode("int16", "int8")
_INT4, _INT4_T = Mode("int8", "int4", True), Mode("int8", "int4")
_INT4_16, _INT4_16_T = Mode("int16", "int4", True), Mode("int16", "int4")
_DYNAMIC, _DYNAMIC_T = Mode("float32", "int8", True), Mode("float32", "int8")
_DYNAMIC_4, _DYNAMIC_4_T = Mode("float32", "int4", True), Mode("float32", "int4")
_UINT8, _BOTH_INT16 = Mode("uint8", "uint8"), Mode("int16", "int16")
_PLAIN = frozenset({_FLOAT, _INT8, _INT8_T, _INT16, _INT16_T})
_FOUR_BITS = frozenset({_INT4, _INT4_T})

#: What runs right. uint8 is what TensorFlow's converter once made.
RIGHT: Mapping[RuntimeKind, Mapping[str, frozenset[Mode]]] = {
    "litert": {
        "BATCH_MATMUL": frozenset({_FLOAT, _INT8_T, _INT16_T, _BOTH_INT16, _DYNAMIC, _DYNAMIC_T}),
        "CONV_2D": _PLAIN | _FOUR_BITS | {_INT4_16, _INT4_16_T, _DYNAMIC, _DYNAMIC_T, _DYNAMIC_4, _DYNAMIC_4_T, _UINT8},
        # int4 weights run on the production kernels, and no reference kernels are there to prove it with
        "DEPTHWISE_CONV_2D": _PLAIN | {_DYNAMIC, _UINT8},
        "FULLY_CONNECTED": _PLAIN
        | _FOUR_BITS
        | {_INT4_16, _INT4_16_T, _DYNAMIC, _DYNAMIC_T, _DYNAMIC_4, _DYNAMIC_4_T, _UINT8},
        "TRANSPOSE_CONV": _PLAIN | {_DYNAMIC, _DYNAMIC_T, _UINT8},
    },
    "tflite-runtime": {
        "BATCH_MATMUL": frozenset({_FLOAT, _INT8_T, _BOTH_INT16, _DYNAMIC_T}),
        "CONV_2D": _PLAIN | _FOUR_BITS | {_DYNAMIC, _DYNAMIC_T, _UINT8},
        "DEPTHWISE_CONV_2D": _PLAIN | _FOUR_BITS | {_DYNAMIC, _UINT8},
        # float data with int8 weights per channel needs version 12, and with it TFLite 2.17
        "FULLY_CONNECTED": _PLAIN | {_INT4_T, _DYNAMIC, _DYNAMIC_T, _DYNAMIC_4_T, _UINT8},
        "TRANSPOSE_CONV": _PLAIN | {_UINT8},
    },
    "tflm": {
        "BATCH_MATMUL": frozenset({_FLOAT, _INT8_T, _BOTH_INT16}),
        "CONV_2D": _PLAIN | _FOUR_BITS,
        "DEPTHWISE_CONV_2D": _PLAIN | _FOUR_BITS,
        "FULLY_CONNECTED": _PLAIN | {_INT4_T},
        "TRANSPOSE_CONV": _PLAIN,
    },
}

#: What a runtime loads, runs and computes wrongly without a word. The rest of what is not in RIGHT it refuses itself.
#: Kernels for depthwise convolutions under floats read a scale for each channel, also where the weights have only one:
#: what they find behind it differs from run to run.
WRONG: Mapping[RuntimeKind, Mapping[str, frozenset[Mode]]] = {
    "litert": {"BATCH_MATMUL": frozenset({_INT8, _INT16}), "DEPTHWISE_CONV_2D": frozenset({_DYNAMIC_T})},
    "tflite-runtime": {
        "BATCH_MATMUL": frozenset({_INT8, _DYNAMIC}),
        "CONV_2D": frozenset({_DYNAMIC_4, _DYNAMIC_4_T, _INT4_16, _INT4_16_T}),
        "DEPTHWISE_CONV_2D": frozenset({_DYNAMIC_T}),
    },
    "tflm": {"BATCH_MATMUL": frozenset({_INT8}), "DEQUANTIZE": frozenset({Mode("", "int8", True)})},
}

#: Constants that each runtime turns into floats rightly (DEQUANTIZE of weights: float16 and weight-only models).
RIGHT_CONSTANTS: Mapping[RuntimeKind, frozenset[Mode]] = {
    "litert": frozenset(
        {Mode("", w, c) for w in ("int8", "int4") for c in (False, True)} | {Mode("", w) for w in ("float16", "uint8")}
    ),
    "tflite-runtime": frozenset({Mode("", "int8"), Mode("", "int8", True), Mode("", "float16"), Mode("", "uint8")}),
    "tflm": frozenset({Mode("", "int8"), Mode("", "uint8")}),
}

#: Where data and weights lie among the inputs of operators that have weights.
_PLACES: Mapping[str, tuple[int, int]] = {
    "BATCH_MATMUL": (0, 1),
    "BIDIRECTIONAL_SEQUENCE_LSTM": (0, 1),
    "BIDIRECTIONAL_SEQUENCE_RNN": (0, 1),
    "CONV_2D": (0, 1),
    "CONV_3D": (0, 1),
    "CONV_3D_TRANSPOSE": (2, 1),
    "DEPTHWISE_CONV_2D": (0, 1),
    "FULLY_CONNECTED": (0, 1),
    "LSTM": (0, 2),
    "RNN": (0, 1),
    "SVDF": (0, 1),
    "TRANSPOSE_CONV": (2, 1),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": (0, 2),
    "UNIDIRECTIONAL_SEQUENCE_RNN": (0, 1),
}


def _names(text: str) -> frozenset[str]:
    """Return the words of a text: a list with quotes and commas would fill a hundred lines."""
    return frozenset(text.split())


#: Operators without weights that a runtime does not run right on integers, though it does on floats: most it refuses
#: itself. Comparisons of 16 bits TFLM computes wrongly, and so does LiteRT PRELU.
NOT_IN_INTEGERS: Mapping[tuple[RuntimeKind, str], frozenset[str]] = {
    ("litert", "int8"): _names("ADD_N CEIL COS CUMSUM FLOOR FLOOR_DIV L2_POOL_2D ROUND SIN SQUARE"),
    ("litert", "int16"): _names(
        """
        ADD_N ARG_MAX ARG_MIN CEIL COS CUMSUM DEPTH_TO_SPACE FLOOR HARD_SWISH L2_NORMALIZATION L2_POOL_2D LOG_SOFTMAX
        PRELU RELU_N1_TO_1 ROUND SIN SPACE_TO_DEPTH SQUARE SQUARED_DIFFERENCE
        """
    ),
    ("tflite-runtime", "int8"): _names("ADD_N CEIL COS CUMSUM DIV FLOOR FLOOR_DIV L2_POOL_2D NEG ROUND SIN SQUARE"),
    ("tflite-runtime", "int16"): _names(
        """
        ADD_N ARG_MAX ARG_MIN CEIL COS CUMSUM DEPTH_TO_SPACE DIV EQUAL FLOOR GELU GREATER GREATER_EQUAL HARD_SWISH
        L2_NORMALIZATION L2_POOL_2D LESS LESS_EQUAL LOG_SOFTMAX NEG NOT_EQUAL PRELU RELU_N1_TO_1 ROUND SIN
        SPACE_TO_DEPTH SQUARE SQUARED_DIFFERENCE TILE
        """
    ),
    ("tflm", "int8"): _names("ADD_N CEIL COS EXP FLOOR FLOOR_DIV L2_POOL_2D LOG NEG ROUND SIN SQRT SQUARE"),
    ("tflm", "int16"): _names(
        """
        ADD_N ARG_MAX ARG_MIN BATCH_TO_SPACE_ND CEIL COS CUMSUM DEPTH_TO_SPACE DIV ELU EQUAL EXP FLOOR FLOOR_DIV GATHER
        GATHER_ND GREATER GREATER_EQUAL HARD_SWISH L2_NORMALIZATION L2_POOL_2D LESS LESS_EQUAL LOG LOG_SOFTMAX
        MIRROR_PAD NEG NOT_EQUAL PRELU REDUCE_MAX REDUCE_MIN RESIZE_BILINEAR ROUND SIN SPACE_TO_BATCH_ND SPACE_TO_DEPTH
        SQRT SQUARE SQUARED_DIFFERENCE
        """
    ),
}
#: Types of QUANTIZE's input and output that tflite-runtime does not load.
_UNKNOWN_REQUANTIZING = frozenset({("int8", "int16"), ("uint8", "int16")})
_POSITIONS = frozenset({"ARG_MAX", "ARG_MIN"})
_IN_FLOAT = (
    'float32 for this operator (a recipe with precision = "mixed" and its output as "float32" under [layers]), '
    "or float32 throughout"
)
#: The operators that the tflite-micro wheel has.
TFLM_OPERATORS = _names(
    """
    ABS ADD ADD_N ARG_MAX ARG_MIN ASSIGN_VARIABLE AVERAGE_POOL_2D BATCH_MATMUL BATCH_TO_SPACE_ND BROADCAST_ARGS
    BROADCAST_TO CALL_ONCE CAST CEIL CONCATENATION CONV_2D COS CUMSUM DEPTHWISE_CONV_2D DEPTH_TO_SPACE DEQUANTIZE
    DIV DYNAMIC_UPDATE_SLICE ELU EMBEDDING_LOOKUP EQUAL EXP EXPAND_DIMS FILL FLOOR FLOOR_DIV FLOOR_MOD
    FULLY_CONNECTED GATHER GATHER_ND GREATER GREATER_EQUAL HARD_SWISH IF L2_NORMALIZATION L2_POOL_2D LEAKY_RELU LESS
    LESS_EQUAL LOG LOGICAL_AND LOGICAL_NOT LOGICAL_OR LOGISTIC LOG_SOFTMAX MAXIMUM MAX_POOL_2D MEAN MINIMUM
    MIRROR_PAD MUL NEG NOT_EQUAL PACK PAD PADV2 PRELU QUANTIZE READ_VARIABLE REDUCE_ALL REDUCE_MAX REDUCE_MIN RELU
    RELU6 RESHAPE RESIZE_BILINEAR RESIZE_NEAREST_NEIGHBOR REVERSE_V2 ROUND RSQRT SELECT_V2 SHAPE SIN SLICE SOFTMAX
    SPACE_TO_BATCH_ND SPACE_TO_DEPTH SPLIT SPLIT_V SQRT SQUARE SQUARED_DIFFERENCE SQUEEZE STRIDED_SLICE SUB SUM SVDF
    TANH TRANSPOSE TRANSPOSE_CONV UNIDIRECTIONAL_SEQUENCE_LSTM UNPACK VAR_HANDLE WHILE ZEROS_LIKE
    """
)

#: The modes that each precision may give an operator with weights, the preferred one first.
_CHOICES: Mapping[Precision, tuple[Mode, ...]] = {
    "float32": (_FLOAT,),
    "float16": (_FLOAT,),
    "dynamic-int8": (_DYNAMIC, _DYNAMIC_T),
    "int8": (_INT8, _INT8_T),
    "int16x8": (_INT16, _INT16_T),
    "int4": (_INT4, _INT4_T, _INT8),
    "mixed": (_INT8, _INT8_T),
}


def first_refusal(facts: GraphFacts, kind: RuntimeKind, version: str) -> Refusal | None:
    """Return why a runtime of that release does not run the graph right, for the first operator; None: it does."""
    for operator in facts.operators:
        found = (
            _by_operator(operator, kind)
            or _by_data(operator, facts, kind)
            or _by_version(operator, facts, kind, version)
            or _by_mode(operator, facts, kind, version)
        )
        if found is not None:
            return found
    return None


def supported_precisions(facts: GraphFacts, kind: RuntimeKind, version: str | None = None) -> tuple[Precision, ...]:
    """Return the precisions in which a runtime can run a float graph right; without a release: the one measured.

    ``int4`` needs an operator whose weights may have four bits. Operators without weights are not looked at.
    """
    release = MEASURED[kind] if version is None else version
    if any(_by_operator(operator, kind) for operator in facts.operators):
        return ()
    return tuple(precision for precision in _CHOICES if _supports(facts, precision, kind, release))


def choose_mode(operator: str, precision: Precision, kind: RuntimeKind, version: str | None = None) -> Mode | None:
    """Return how an operator of ``RIGHT`` is to compute in a precision on a runtime: the first way that runs right.

    None: there is none.
    """
    release = MEASURED[kind] if version is None else version
    right = (mode for mode in _CHOICES[precision] if mode in RIGHT[kind][operator])
    return next((mode for mode in right if not _too_new(operator, mode, kind, release)), None)


def mode_of(operator: OperatorFacts, facts: GraphFacts) -> Mode | None:
    """Return how an operator computes; None where it is none with weights, or lacks one of the two inputs."""
    places = _PLACES.get(operator.name)
    if places is None or max(places) >= len(operator.inputs):
        return None
    data, weights = (operator.inputs[place] for place in places)
    return None if min(data, weights) < 0 else _mode(facts.tensors[data].dtype, facts.tensors[weights])


def _mode(data: str, weights: TensorFacts) -> Mode:
    return Mode(data, weights.dtype, len(weights.scales) > 1)


def _by_operator(operator: OperatorFacts, kind: RuntimeKind) -> Refusal | None:
    if kind != "tflm" or operator.custom or operator.name in TFLM_OPERATORS:
        return None
    return Refusal(operator.name, "is no operator of TFLM", "a model without it, or a board with another runtime")


def _by_data(operator: OperatorFacts, facts: GraphFacts, kind: RuntimeKind) -> Refusal | None:
    """Refuse integers where the runtime's kernel takes floats only."""
    if operator.custom or not operator.inputs or operator.inputs[0] < 0:
        return None
    data = facts.tensors[operator.inputs[0]]
    if operator.name == "SUM" and data.quantized and kind != "tflm":
        return Refusal(
            "SUM",
            f"of {data.dtype} is computed wrongly by LiteRT's reference kernels, which prove a bundle for {kind}",
            f"MEAN in its place, or {_IN_FLOAT}",
        )
    if operator.name in _POSITIONS and kind == "tflm" and facts.tensors[operator.outputs[0]].dtype == "int64":
        return Refusal(
            operator.name, "with 64-bit answers is not run by tflm", "32-bit ones: argmax(…, output_type=tf.int32)"
        )
    if not data.quantized or operator.name not in NOT_IN_INTEGERS.get((kind, data.dtype), ()):
        return None
    return Refusal(operator.name, f"in {data.dtype} is not run right by {kind}", _IN_FLOAT)


def _by_version(operator: OperatorFacts, facts: GraphFacts, kind: RuntimeKind, version: str) -> Refusal | None:
    """Refuse what tflite-runtime does not know yet.

    A version only opens the door: kernels go by the types. One that says less than its types need so runs right where
    the release knows what they need, and is computed wrongly where it does not.
    """
    if kind != "tflite-runtime" or operator.custom:
        return None
    needed = max(operator.version, required_version(operator, facts))
    release = release_of(operator.name, needed)
    if not is_older(version, release):
        return None
    since = "no known release has" if release == AFTER_ALL_KNOWN else f"came with TFLite {release}"
    return Refusal(
        operator.name, f"is needed in version {needed}, which {since}", _instead(operator, facts, kind, version)
    )


def _by_mode(operator: OperatorFacts, facts: GraphFacts, kind: RuntimeKind, version: str) -> Refusal | None:
    if operator.name == "DEQUANTIZE":
        return _by_constant(operator, facts, kind)
    if operator.name == "QUANTIZE":
        return _by_requantizing(operator, facts, kind)
    mode = mode_of(operator, facts)
    if mode is None or _runs(operator.name, mode, kind):
        return None
    wrong = mode in WRONG[kind].get(operator.name, frozenset())
    verdict = f"is computed wrongly by {kind}" if wrong else f"is not known to run right on {kind}"
    return Refusal(operator.name, f"with {mode} {verdict}", _instead(operator, facts, kind, version))


def _runs(operator: str, mode: Mode, kind: RuntimeKind) -> bool:
    if operator in RIGHT[kind]:
        return mode in RIGHT[kind][operator]
    return kind == "litert" or mode in _PLAIN


def _by_constant(operator: OperatorFacts, facts: GraphFacts, kind: RuntimeKind) -> Refusal | None:
    source = facts.tensors[operator.inputs[0]]
    mode = _mode("", source)
    if not source.constant_bytes or mode in RIGHT_CONSTANTS[kind]:
        return None
    wrong = mode in WRONG[kind].get("DEQUANTIZE", frozenset())
    verdict = f"is computed wrongly by {kind}" if wrong else f"is not run by {kind}"
    return Refusal("DEQUANTIZE", f"of {mode} {verdict}", "int8 weights under int8 activations (int8), or float32")


def _by_requantizing(operator: OperatorFacts, facts: GraphFacts, kind: RuntimeKind) -> Refusal | None:
    source, made = facts.tensors[operator.inputs[0]].dtype, facts.tensors[operator.outputs[0]].dtype
    if kind != "tflite-runtime" or (source, made) not in _UNKNOWN_REQUANTIZING:
        return None
    return Refusal("QUANTIZE", f"from {source} to {made} is not run by {kind}", "activations of one width throughout")


def _instead(operator: OperatorFacts, facts: GraphFacts, kind: RuntimeKind, version: str) -> str:
    """Return the closest mode that the runtime runs right: as few changes to what the model has as can be."""
    mode = mode_of(operator, facts)
    if mode is None or operator.name not in RIGHT[kind]:
        return "float32, or a model without this operator"
    candidates = (*_close(mode), _INT8, _INT8_T, _FLOAT)
    right = (candidate for candidate in candidates if candidate in RIGHT[kind][operator.name])
    return next((str(mode) for mode in right if not _too_new(operator.name, mode, kind, version)), "a newer runtime")


def _close(mode: Mode) -> Iterator[Mode]:
    yield mode._replace(per_channel=not mode.per_channel)
    for change in ({"weights": "int8"}, {"data": "int8"}):
        for per_channel in (True, False):
            yield mode._replace(per_channel=per_channel, **change)


def _too_new(operator: str, mode: Mode, kind: RuntimeKind, version: str) -> bool:
    """Tell whether an operator that computes so came after that release of tflite-runtime."""
    if kind != "tflite-runtime":
        return False
    scales = (0.1, 0.1) if mode.per_channel else (0.1,)
    tensors = (
        TensorFacts("data", (), mode.data, 0, () if mode.data == "float32" else (0.1,)),
        TensorFacts("weights", (), mode.weights, 1, () if mode.weights == "float32" else scales),
    )
    described = OperatorFacts(operator, 1, (0, 1, -1), (0,))
    needed = required_version(described, GraphFacts((described,), tensors, (0,), (0,), 1, 0, None))
    return is_older(version, release_of(operator, needed))


def _supports(facts: GraphFacts, precision: Precision, kind: RuntimeKind, version: str) -> bool:
    names = {operator.name for operator in facts.operators} & set(RIGHT[kind])
    modes = [choose_mode(name, precision, kind, version) for name in sorted(names)]
    if precision == "float16":
        return Mode("", "float16") in RIGHT_CONSTANTS[kind]
    if precision == "int4":
        return None not in modes and any(mode in _FOUR_BITS for mode in modes)
    return None not in modes and (precision != "dynamic-int8" or bool(modes))
