# SPDX-License-Identifier: Apache-2.0
"""Read TFLite flatbuffers as facts, and write operator versions right. Only for buffers that LiteRT has verified."""

from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from converter.core.board.operator_versions import is_older, minimum_runtime_version, raised_version
from converter.core.graph import GraphFacts, OperatorFacts, TensorFacts
from edgefleet.contracts.errors import UnsupportedModelError

_RUNTIME_KEY = b"min_runtime_version"
_RUNTIME_BYTES = 16
_OPERATORS = {value: name for name, value in vars(schema.BuiltinOperator).items() if isinstance(value, int)}
_DTYPES = {value: name.lower() for name, value in vars(schema.TensorType).items() if isinstance(value, int)}

Model = Any  # schema.ModelT, which is untyped


def read_model(data: bytes) -> Model:
    """Parse a flatbuffer into its object form.

    Raises:
        UnsupportedModelError: the buffer is damaged, or has no graph.
    """
    try:
        model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
    except Exception as error:  # the generated reader raises whatever a wrong offset leads to
        raise UnsupportedModelError(
            f"the model is damaged: its {len(data):,} bytes are no whole flatbuffer",
            hint="export the model again, or fetch it again if it was copied",
        ) from error
    if not model.subgraphs or not model.subgraphs[0].operators:
        raise UnsupportedModelError("the model has no operators", hint="export the model again")
    for buffer in model.buffers or ():
        if isinstance(buffer.data, bytes | bytearray):  # it lay behind the flatbuffer; arrays are written much faster
            buffer.data = np.frombuffer(buffer.data, dtype=np.uint8)
    for what in ("inputs", "outputs"):
        if not _numbers(getattr(model.subgraphs[0], what)):
            raise UnsupportedModelError(f"the model has no {what}", hint="export the model again")
    return model


def graph_facts(model: Model, size_bytes: int) -> GraphFacts:
    """Return the facts of a parsed model's first subgraph."""
    graph = model.subgraphs[0]
    return GraphFacts(
        operators=tuple(_operator(model, operator) for operator in graph.operators),
        tensors=tuple(_tensor(model, tensor) for tensor in graph.tensors),
        inputs=_numbers(graph.inputs),
        outputs=_numbers(graph.outputs),
        subgraphs=len(model.subgraphs),
        size_bytes=size_bytes,
        minimum_runtime_version=_read_runtime_version(model),
    )


def read_facts(data: bytes) -> GraphFacts:
    """Parse a flatbuffer and return its facts.

    Raises:
        UnsupportedModelError: the buffer is damaged, or has no graph.
    """
    return graph_facts(read_model(data), len(data))


def with_modern_operator_codes(data: bytes) -> bytes:
    """Return the model with each operator's code in the newer of its two fields.

    Files from before TensorFlow 2.4 have it in the older one only, where ai-edge-quantizer does not look: it takes all
    their operators for ADD, number 0.
    """
    model = read_model(data)
    if all(code.builtinCode >= code.deprecatedBuiltinCode for code in model.operatorCodes):
        return data
    for code in model.operatorCodes:
        code.builtinCode = max(code.builtinCode, code.deprecatedBuiltinCode)
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def with_signature_list(data: bytes) -> bytes:
    """Return the model with a list of signatures, be it empty.

    Old converters wrote none, and ai-edge-quantizer reads through it wherever an output's operator stays in float.
    """
    model = read_model(data)
    if model.signatureDefs is not None:
        return data
    model.signatureDefs = []
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def with_versions_written(data: bytes, *, signature_list: bool = True) -> bytes:
    """Return the model with each operator's version, and the minimum runtime version, as its types ask for.

    Weights that lie behind the flatbuffer are taken into it, where every runtime finds them. ``signature_list`` tells
    whether the list that :func:`with_signature_list` makes is to stay.
    """
    model = read_model(data)
    facts = graph_facts(model, len(data))
    for operator, described in zip(model.subgraphs[0].operators, facts.operators, strict=True):
        code = model.operatorCodes[operator.opcodeIndex]
        code.version = max(code.version, raised_version(described, facts))
    written = graph_facts(model, len(data))
    newest = minimum_runtime_version(_highest_versions(written))
    if facts.minimum_runtime_version is not None and is_older(newest, facts.minimum_runtime_version):
        newest = facts.minimum_runtime_version
    _write_runtime_version(model, newest)
    if not signature_list:
        model.signatureDefs = None
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def constant_tensor_names(model: Model) -> frozenset[str]:
    """Return the names of tensors that hold weights or other constants."""
    return frozenset(
        _text(tensor.name) for graph in model.subgraphs for tensor in graph.tensors if _constant_bytes(model, tensor)
    )


def _highest_versions(facts: GraphFacts) -> dict[str, int]:
    versions: dict[str, int] = {}
    for operator in facts.operators:
        versions[operator.name] = max(operator.version, versions.get(operator.name, 0))
    return versions


def _operator(model: Model, operator: Any) -> OperatorFacts:
    code = model.operatorCodes[operator.opcodeIndex]
    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    custom = number == schema.BuiltinOperator.CUSTOM
    return OperatorFacts(
        name=_text(code.customCode) if custom else _OPERATORS.get(number, f"OPERATOR_{number}"),
        version=int(code.version),
        inputs=_numbers(operator.inputs),
        outputs=_numbers(operator.outputs),
        custom=custom,
        flags=_flags(operator.builtinOptions),
    )


def _flags(options: Any) -> frozenset[str]:
    return frozenset() if options is None else frozenset(name for name, value in vars(options).items() if value is True)


def _tensor(model: Model, tensor: Any) -> TensorFacts:
    quantization = tensor.quantization
    scales = () if quantization is None or quantization.scale is None else quantization.scale
    zero_points = () if quantization is None or quantization.zeroPoint is None else quantization.zeroPoint
    return TensorFacts(
        name=_text(tensor.name),
        shape=_numbers(tensor.shape),
        dtype=_DTYPES.get(tensor.type, f"type_{tensor.type}"),
        constant_bytes=_constant_bytes(model, tensor),
        scales=tuple(float(scale) for scale in scales),
        zero_points=tuple(int(point) for point in zero_points),
    )


def _constant_bytes(model: Model, tensor: Any) -> int:
    data = model.buffers[tensor.buffer].data
    return 0 if data is None else len(data)


def _numbers(values: Any) -> tuple[int, ...]:
    return () if values is None else tuple(int(value) for value in values)


def _text(value: bytes | None) -> str:
    return (value or b"").decode("utf-8", "replace")


def _runtime_buffer(model: Model) -> Any:
    for entry in model.metadata or ():
        if entry.name == _RUNTIME_KEY:
            return model.buffers[entry.buffer]
    return None


def _read_runtime_version(model: Model) -> str | None:
    buffer = _runtime_buffer(model)
    if buffer is None or buffer.data is None:
        return None
    return bytes(buffer.data).rstrip(b"\0").decode("ascii", "replace") or None


def _write_runtime_version(model: Model, version: str) -> None:
    buffer = _runtime_buffer(model)
    if buffer is None:
        buffer = schema.BufferT()
        model.buffers.append(buffer)
        entry = schema.MetadataT()
        entry.name = _RUNTIME_KEY
        entry.buffer = len(model.buffers) - 1
        model.metadata = [*(model.metadata or ()), entry]
    buffer.data = np.frombuffer(version.encode().ljust(_RUNTIME_BYTES, b"\0"), dtype=np.uint8)
