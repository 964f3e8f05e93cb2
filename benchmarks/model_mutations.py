# SPDX-License-Identifier: Apache-2.0
"""Damaged copies of a TFLite model: bytes at random, and structure (well-formed files that lie about themselves).

A mutant is made again from its seed and number.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

Chance = np.random.Generator
_EXTREMES = (0, 1, -1, 2**31 - 1, -(2**31), 255, 65535, 2**16, 4, 8)
_SIZES = (-1, 0, 1, 2, 3, 7, 8, 64, 4096, 2**16, 2**31 - 1)
_SCALES = (0.0, -1.0, 1e-38, 1.0, 1e30, float("inf"), float("nan"))
_POINTS = (0, -129, 128, 2**31, -(2**63), 2**63 - 1)
_VALUES = (float("nan"), float("inf"), -float("inf"), 3e38, 0.0, 1e-40)
_OPERATORS = sorted(value for value in vars(schema.BuiltinOperator).values() if isinstance(value, int))
_TYPES = sorted(value for value in vars(schema.TensorType).values() if isinstance(value, int))


def mutant(model: bytes, seed: int, number: int, *, structure: bool = False) -> bytes:
    """Return a damaged copy: one to four of flipped bits, bytes, words, copied blocks, or a cut; or of lies."""
    chance = np.random.default_rng([seed, number])
    return _lying(model, chance) if structure else _damaged(model, chance)


def _damaged(model: bytes, chance: Chance) -> bytes:
    data = bytearray(model)
    for _ in range(int(chance.integers(1, 5))):
        _damage(data, chance)
    while data == model:
        _damage(data, chance)
    return bytes(data)


def _damage(data: bytearray, chance: Chance) -> None:
    # Tables and offsets lie at the ends of the file, weights in its middle; four of five hits go where the tables are.
    table = min(len(data) - 8, 4096)
    at = int(chance.integers(8, table)) if chance.random() < 0.4 else int(chance.integers(8, len(data) - 8))
    if chance.random() < 0.4:
        at = len(data) - 8 - int(chance.integers(0, table - 8))
    kind = chance.integers(0, 6)
    if kind <= 1:
        data[at] ^= 1 << int(chance.integers(0, 8))
    elif kind == 2:
        data[at] = int(chance.integers(0, 256))
    elif kind == 3:
        data[at & ~3 : (at & ~3) + 4] = int(chance.choice(_EXTREMES)).to_bytes(4, "little", signed=True)
    elif kind == 4:
        start, length = int(chance.integers(8, len(data) - 64)), int(chance.integers(4, 33))
        data[at : at + length] = data[start : start + length]
    elif chance.random() < 0.2:
        del data[max(at, 64) :]


def _lying(model: bytes, chance: Chance) -> bytes:
    """Change one to four things in the object form, and pack it again; what no file can say is not said."""
    tree = flatbuffer_utils.read_model_from_bytearray(bytearray(model))
    try:
        for _ in range(int(chance.integers(1, 5))):
            _LIES[int(chance.integers(0, len(_LIES)))](tree, chance)
        return bytes(flatbuffer_utils.convert_object_to_bytearray(tree))
    except Exception:  # noqa: BLE001  # a number too large for its field, or of what went before: another in its place
        return _lying(model, chance)


def _one_of(values: Any, chance: Chance) -> Any:
    return values[int(chance.integers(0, len(values)))]


def _tensor(tree: Any, chance: Chance) -> Any:
    return _one_of(tree.subgraphs[0].tensors, chance)


def _operator(tree: Any, chance: Chance) -> Any:
    return _one_of(tree.subgraphs[0].operators, chance)


def _other_tensor(tree: Any, chance: Chance) -> None:
    """Let an operator, or the graph, read or write another tensor."""
    holder = tree.subgraphs[0] if chance.random() < 0.25 else _operator(tree, chance)
    side = "inputs" if chance.random() < 0.6 else "outputs"
    numbers = [int(number) for number in getattr(holder, side)]
    count = len(tree.subgraphs[0].tensors)
    if numbers:
        numbers[int(chance.integers(0, len(numbers)))] = int(chance.integers(-1, count + 1))
        setattr(holder, side, numbers)


def _more_or_fewer_tensors(tree: Any, chance: Chance) -> None:
    operator = _operator(tree, chance)
    side = "inputs" if chance.random() < 0.7 else "outputs"
    numbers = [int(number) for number in getattr(operator, side)]
    if numbers and chance.random() < 0.5:
        numbers.pop()
    else:
        numbers.append(int(chance.integers(0, len(tree.subgraphs[0].tensors))))
    setattr(operator, side, numbers)


def _other_order(tree: Any, chance: Chance) -> None:
    operators = tree.subgraphs[0].operators
    a, b = (int(chance.integers(0, len(operators))) for _ in range(2))
    operators[a], operators[b] = operators[b], operators[a]


def _other_type(tree: Any, chance: Chance) -> None:
    _tensor(tree, chance).type = _one_of(_TYPES, chance)


def _other_shape(tree: Any, chance: Chance) -> None:
    tensor = _tensor(tree, chance)
    shape = [int(size) for size in tensor.shape] if tensor.shape is not None else []
    kind = chance.integers(0, 4)
    if kind == 0:
        shape = shape[1:]
    elif kind == 1:
        shape.append(int(_one_of(_SIZES, chance)))
    elif shape:
        shape[int(chance.integers(0, len(shape)))] = int(_one_of(_SIZES, chance))
    tensor.shape = shape


def _other_signature(tree: Any, chance: Chance) -> None:
    tensor = _tensor(tree, chance)
    tensor.shapeSignature = [int(_one_of(_SIZES, chance)) for _ in range(int(chance.integers(0, 5)))]


def _other_name(tree: Any, chance: Chance) -> None:
    name = _tensor(tree, chance).name
    _tensor(tree, chance).name = _one_of((name, b"", None, b"\xff\xfe", b"n" * 5000, b"a;b/c\n"), chance)


def _other_buffer(tree: Any, chance: Chance) -> None:
    _tensor(tree, chance).buffer = int(chance.integers(0, len(tree.buffers) + 1))


def _other_values(tree: Any, chance: Chance) -> None:
    """Put an extreme number into a constant, or make the constant longer or shorter."""
    buffer = _one_of(tree.buffers, chance)
    if buffer.data is None or len(buffer.data) < 4:
        return
    data = bytearray(bytes(buffer.data))
    kind = chance.integers(0, 4)
    at = int(chance.integers(0, len(data) // 4)) * 4
    if kind == 0:
        data[at : at + 4] = np.float32(_one_of(_VALUES, chance)).tobytes()
    elif kind == 1:
        data[at : at + 4] = int(_one_of(_EXTREMES, chance)).to_bytes(4, "little", signed=True)
    elif kind == 2:
        del data[at:]
    else:
        data += bytes(int(chance.integers(1, 64)))
    buffer.data = np.frombuffer(bytes(data), dtype=np.uint8)


def _other_option(tree: Any, chance: Chance) -> None:
    operator = _operator(tree, chance)
    options = operator.builtinOptions
    if options is None or chance.random() < 0.1:
        other = _operator(tree, chance)
        operator.builtinOptions, operator.builtinOptionsType = other.builtinOptions, other.builtinOptionsType
        return
    named = [name for name, value in vars(options).items() if isinstance(value, int | np.integer)]
    if named:
        setattr(options, _one_of(named, chance), int(_one_of(_EXTREMES, chance)))


def _other_operator(tree: Any, chance: Chance) -> None:
    if chance.random() < 0.5:
        _operator(tree, chance).opcodeIndex = int(chance.integers(0, len(tree.operatorCodes) + 1))
        return
    code = _one_of(tree.operatorCodes, chance)
    code.builtinCode = int(_one_of(_OPERATORS, chance))
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)


def _other_version(tree: Any, chance: Chance) -> None:
    _one_of(tree.operatorCodes, chance).version = int(_one_of(_EXTREMES, chance))


def _other_quantization(tree: Any, chance: Chance) -> None:
    tensor = _tensor(tree, chance)
    if tensor.quantization is None or chance.random() < 0.3:
        tensor.quantization = schema.QuantizationParametersT()
    count = int(_one_of((0, 1, 1, 2, 8, 300), chance))
    tensor.quantization.scale = [float(_one_of(_SCALES, chance)) for _ in range(count)]
    tensor.quantization.zeroPoint = [
        int(_one_of(_POINTS, chance)) for _ in range(count if chance.random() < 0.7 else 1)
    ]
    tensor.quantization.quantizedDimension = int(_one_of((0, 0, 1, 3, 9, -1), chance))


def _variable(tree: Any, chance: Chance) -> None:
    tensor = _tensor(tree, chance)
    tensor.isVariable = not tensor.isVariable


def _sparse(tree: Any, chance: Chance) -> None:
    sparsity, dense = schema.SparsityParametersT(), schema.DimensionMetadataT()
    dense.format, dense.denseSize = 0, int(_one_of(_SIZES, chance))
    sparsity.traversalOrder = [int(chance.integers(-1, 4)) for _ in range(4)]
    sparsity.dimMetadata = [dense] * int(chance.integers(0, 5))
    _tensor(tree, chance).sparsity = sparsity


def _metadata(tree: Any, chance: Chance) -> None:
    entry = schema.MetadataT()
    entry.name = _one_of((b"OfflineMemoryAllocation", b"min_runtime_version", b"", None), chance)
    entry.buffer = int(chance.integers(0, len(tree.buffers) + 1))
    tree.metadata = [*(tree.metadata or []), entry]


def _signatures(tree: Any, chance: Chance) -> None:
    signature, entry = schema.SignatureDefT(), schema.TensorMapT()
    entry.name, entry.tensorIndex = b"x", int(chance.integers(0, len(tree.subgraphs[0].tensors) + 1))
    signature.signatureKey, signature.subgraphIndex = b"serving_default", int(chance.integers(0, 3))
    signature.inputs, signature.outputs = [entry], [entry] * int(chance.integers(0, 3))
    tree.signatureDefs = [signature] * int(chance.integers(0, 3))


def _graphs(tree: Any, chance: Chance) -> None:
    """Add the graph once more, or an empty one."""
    tree.subgraphs.append(tree.subgraphs[0] if chance.random() < 0.5 else schema.SubGraphT())


def _missing(tree: Any, chance: Chance) -> None:
    """Take a field of a tensor, operator or graph away."""
    holder = _one_of((_tensor(tree, chance), _operator(tree, chance), tree.subgraphs[0]), chance)
    names = [name for name, value in vars(holder).items() if value is not None and not isinstance(value, int | bool)]
    if names:
        setattr(holder, _one_of(names, chance), None)


_LIES: tuple[Callable[[Any, Chance], None], ...] = (
    _other_tensor, _other_tensor, _more_or_fewer_tensors, _other_order, _other_type, _other_shape, _other_shape,
    _other_signature, _other_name, _other_buffer, _other_values, _other_values, _other_option, _other_option,
    _other_operator, _other_version, _other_quantization, _other_quantization, _variable, _sparse, _metadata,
    _signatures, _graphs, _missing,
)  # fmt: skip
