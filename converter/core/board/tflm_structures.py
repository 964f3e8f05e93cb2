# SPDX-License-Identifier: Apache-2.0
"""How many bytes TensorFlow Lite Micro's own structures take, for pointers of 4 and of 8 bytes.

A structure is written as its fields, in order: ``p`` pointer or ``size_t``, ``i`` 32-bit integer, float or enumeration,
``h`` 16-bit, ``b`` byte or bool, ``d`` double or 64-bit integer. The fields are those of tensorflow/tflite-micro at
90b983c2 (headers of ``tensorflow/lite/micro``, its ``kernels`` and ``lite/core/c``), reference kernels. Nested
structures are written so that their padding is not lost; where in doubt, larger. The wheel on PyPI records its
allocations and reads compressed weights, for which its structures have more fields (``WHEEL_…``).
"""

from typing import NamedTuple

_FIELD_BYTES = {"i": 4, "h": 2, "b": 1, "d": 8}

# The interpreter (core/c/common.h, micro_allocator.h, micro_allocation_info.h, greedy_memory_planner.h).
EVAL_TENSOR = "ppi"
NODE_AND_REGISTRATION = "ppppppip"
TENSOR = "ipiipppiib"
AFFINE_QUANTIZATION = "ppi"
ARENA_ALLOCATOR = "ppppppppi"
WHEEL_ARENA_ALLOCATOR = ARENA_ALLOCATOR + "pppp"
PLANNER = "piipppp" + "iipb"
MICRO_ALLOCATOR = "pppppbppp"
WHEEL_MICRO_ALLOCATOR = MICRO_ALLOCATOR + "p" + 8 * "ppp"
BUILTIN_DATA_ALLOCATOR = "pp"
SUBGRAPH_ALLOCATIONS = "pp"
WHEEL_SUBGRAPH_ALLOCATIONS = SUBGRAPH_ALLOCATIONS + "p"
SCRATCH_HANDLE = "p"
SCRATCH_REQUEST = "pii"
ALLOCATION_INFO = "ppiiib"
#: What the planner keeps of each buffer while it plans.
PLANNED_BUFFER = "iiii" + "i" + "i" + "iii" + "i"
#: Room for requests that each kernel may still make (``kMaxScratchBuffersPerOp``).
SCRATCH_REQUESTS_PER_OPERATOR = 12
#: Entries of a look-up table over 16-bit values (``LUTSize<int16_t>``).
LOOKUP_ENTRIES = 513


class OperatorStructures(NamedTuple):
    """An operator's parameters, as the interpreter parses them, and what its kernel keeps between inferences.

    ``compressed`` follows ``kept`` where the interpreter is built to read compressed weights, as the wheel is.
    """

    parameters: str
    kept: str
    compressed: str = ""


_NOTHING = OperatorStructures("", "")
_RESCALED = OperatorStructures("", "iiiibii")
_ELEMENTWISE = "b" + 12 * "i"
_REDUCER = OperatorStructures("b", 11 * "i")
_POOL = OperatorStructures(10 * "i", 8 * "i")
_COMPARISON = OperatorStructures("", 7 * "i" + "b")
_INNER_GRAPHS = OperatorStructures("ii", "ii")
_GATE = 2 * (9 * "i" + "bbb")
_LSTM_PRODUCT = 15 * "i" + "dd" + "hh" + 5 * "i"
_CONVOLUTION = OperatorStructures(7 * "i", "iiii" + "iii" + "ii" + "pp" + "ii" + "i", "ii")

OPERATORS: dict[str, OperatorStructures] = {
    "ABS": _RESCALED,
    "ADD": OperatorStructures("ib", _ELEMENTWISE + "ii"),
    "ADD_N": _NOTHING,
    "ARG_MAX": OperatorStructures("i", ""),
    "ARG_MIN": OperatorStructures("i", ""),
    "ASSIGN_VARIABLE": OperatorStructures("", "", "i"),
    "AVERAGE_POOL_2D": _POOL,
    "BATCH_MATMUL": OperatorStructures("bbb", "pppbbb"),
    "BATCH_TO_SPACE_ND": _NOTHING,
    "BROADCAST_ARGS": _NOTHING,
    "BROADCAST_TO": _NOTHING,
    "CALL_ONCE": OperatorStructures("i", "ib"),
    "CAST": OperatorStructures("ii", ""),
    "CEIL": _NOTHING,
    "CONCATENATION": OperatorStructures("ii", "ippiii", 10 * "i"),
    "CONV_2D": _CONVOLUTION,
    "COS": _NOTHING,
    "CUMSUM": OperatorStructures("bb", ""),
    "DEPTHWISE_CONV_2D": _CONVOLUTION,
    "DEPTH_TO_SPACE": OperatorStructures("i", ""),
    "DEQUANTIZE": OperatorStructures("", "dd" + "iii"),
    "DIV": OperatorStructures("i", 7 * "i"),
    "DYNAMIC_UPDATE_SLICE": _NOTHING,
    "ELU": OperatorStructures("", 256 * "b"),
    "EMBEDDING_LOOKUP": OperatorStructures("", "ip"),
    "EQUAL": _COMPARISON,
    "EXP": _NOTHING,
    "EXPAND_DIMS": _NOTHING,
    "FILL": _NOTHING,
    "FLOOR": _NOTHING,
    # The header has five fields; the wheel takes 32 bytes at multiples of 8, hence two pointers more.
    "FULLY_CONNECTED": OperatorStructures("iibbi" + "pp", "iiii" + "i" + "iii" + "i" + "ppb", "ii"),
    "FLOOR_DIV": _NOTHING,
    "FLOOR_MOD": _NOTHING,
    "GATHER": OperatorStructures("ii", ""),
    "GATHER_ND": _NOTHING,
    "GREATER": _COMPARISON,
    "GREATER_EQUAL": _COMPARISON,
    "HARD_SWISH": OperatorStructures("", "hhhihi"),
    "IF": _INNER_GRAPHS,
    "L2_NORMALIZATION": OperatorStructures("i", "i"),
    "L2_POOL_2D": _POOL,
    "LEAKY_RELU": OperatorStructures("i", 6 * "i"),
    "LESS": _COMPARISON,
    "LESS_EQUAL": _COMPARISON,
    "LOG": _NOTHING,
    "LOGICAL_AND": _NOTHING,
    "LOGICAL_NOT": _NOTHING,
    "LOGICAL_OR": _NOTHING,
    "LOGISTIC": OperatorStructures("", "iiii"),
    "LOG_SOFTMAX": _NOTHING,
    "MAXIMUM": _NOTHING,
    "MAX_POOL_2D": _POOL,
    "MEAN": _REDUCER,
    "MINIMUM": _NOTHING,
    "MIRROR_PAD": OperatorStructures("i", 5 * "i"),
    "MUL": OperatorStructures("i", 9 * "i"),
    "NEG": _NOTHING,
    "NOT_EQUAL": _COMPARISON,
    "PACK": OperatorStructures("ii", ""),
    "PAD": OperatorStructures("", "biiiiibiiiii" + "i" + "i"),
    "PADV2": OperatorStructures("", "biiiiibiiiii" + "i" + "i"),
    "PRELU": OperatorStructures("", 7 * "i"),
    "QUANTIZE": OperatorStructures("", "id" + "iii"),
    "READ_VARIABLE": _NOTHING,
    "REDUCE_ALL": _REDUCER,
    "REDUCE_MAX": _REDUCER,
    "REDUCE_MIN": _REDUCER,
    "RELU": OperatorStructures("", 7 * "i"),
    "RELU6": OperatorStructures("", "ii"),
    "RESHAPE": OperatorStructures(9 * "i", ""),
    "RESIZE_BILINEAR": OperatorStructures("bb", ""),
    "RESIZE_NEAREST_NEIGHBOR": OperatorStructures("bb", ""),
    "REVERSE_V2": _NOTHING,
    "ROUND": _NOTHING,
    "RSQRT": _RESCALED,
    "SELECT_V2": OperatorStructures("", "b"),
    "SHAPE": OperatorStructures("i", ""),
    "SIN": _NOTHING,
    "SLICE": _NOTHING,
    "SOFTMAX": OperatorStructures("i", "d" + 7 * "i" + 5 * "p"),
    "SPACE_TO_BATCH_ND": OperatorStructures("", "i"),
    "SPACE_TO_DEPTH": OperatorStructures("i", ""),
    "SPLIT": OperatorStructures("i", ""),
    "SPLIT_V": OperatorStructures("i", ""),
    "SQRT": _NOTHING,
    "SQUARE": _NOTHING,
    "SQUARED_DIFFERENCE": OperatorStructures("", "d" + 15 * "i" + "dd" + "hh" + 5 * "i"),
    "SQUEEZE": OperatorStructures(9 * "i", ""),
    "STRIDED_SLICE": OperatorStructures("iiiiib", 3 * "biiiii" + "hhhhhb"),
    "SUB": OperatorStructures("ib", _ELEMENTWISE),
    "SUM": _REDUCER,
    "SVDF": OperatorStructures("iib", 9 * "i"),
    "TANH": OperatorStructures("", "iiii"),
    "TRANSPOSE": _NOTHING,
    "TRANSPOSE_CONV": OperatorStructures(5 * "i", "i" + 8 * "h" + 9 * "i" + "ii" + "pp", "ii"),
    # The wheel takes 8 bytes more than the header has fields; two integers stand for them everywhere.
    "UNIDIRECTIONAL_SEQUENCE_LSTM": OperatorStructures(
        "iiibbb", "biiii" + "ihi" + "i" + 4 * _GATE + 3 * _LSTM_PRODUCT + 4 * "i" + "ii"
    ),
    "UNPACK": OperatorStructures("ii", ""),
    "VAR_HANDLE": OperatorStructures("pp", "i"),
    "WHILE": _INNER_GRAPHS,
    "ZEROS_LIKE": _NOTHING,
    "ethos-u": OperatorStructures("", "iii"),
}
#: What LOG_SOFTMAX keeps of integers; of floats it keeps nothing.
LOG_SOFTMAX_OF_INTEGERS = "iiiiipp"
#: For an operator without an entry: more than any entry above but a table.
UNKNOWN_OPERATOR = OperatorStructures(12 * "i", 32 * "i")


def structure_bytes(fields: str, pointer_bytes: int) -> int:
    """Return the size of a structure; a structure without fields is not allocated and has none."""
    size_bytes = 0
    for field in fields:
        width = _field_bytes(field, pointer_bytes)
        size_bytes = -(-size_bytes // width) * width + width
    alignment = structure_alignment(fields, pointer_bytes)
    return -(-size_bytes // alignment) * alignment


def structure_alignment(fields: str, pointer_bytes: int) -> int:
    """Return what a structure's address is a multiple of: the width of its widest field."""
    return max((_field_bytes(field, pointer_bytes) for field in fields), default=1)


def _field_bytes(field: str, pointer_bytes: int) -> int:
    return pointer_bytes if field == "p" else _FIELD_BYTES[field]
