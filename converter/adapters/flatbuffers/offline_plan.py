# SPDX-License-Identifier: Apache-2.0
"""Plan a model's arena, and write the plan into the model, where TensorFlow Lite Micro takes it from.

The metadata ``OfflineMemoryAllocation`` is a little-endian int32 vector: version, number of subgraphs, number of
tensors, then an offset for each tensor; -1 leaves a tensor to the interpreter. The interpreter looks at neither overlap
nor range, so that a plan is proved here before it is written. LiteRT ignores the metadata.

A plan speaks of tensors by number. What is written after it may share buffers, move them and drop names, as
``flatbuffer_compact`` does; it must not add, remove or reorder tensors or operators. Hence: prune, quantize, plan,
compact.
"""

from dataclasses import replace

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

from converter.adapters.flatbuffers.reading import Model, graph_facts, read_model
from converter.core.board.arena import Buffer, Plan, as_plan, faults, greedy, live_buffers
from converter.core.board.arena_optimal import NODE_LIMIT, optimal
from edgefleet.contracts.errors import ModelFailedError, UnsupportedModelError

METADATA_NAME = b"OfflineMemoryAllocation"
#: The custom operator that runs on an NPU, as vela and TFLM call it.
NPU_OPERATOR = "ethos-u"
_VERSION = 1
_ONLINE = -1
_HEADER = 3


def plan_for(model: bytes, *, node_limit: int = NODE_LIMIT) -> tuple[Plan, Plan]:
    """Return the interpreter's own plan and the best one, as the interpreter carries it out once it is embedded.

    Scratch buffers cannot be placed from outside: the best plan counts where the interpreter then puts them. Where that
    is no smaller than its own plan, both are the same. So they are for a model that was compiled for an NPU: the
    compiler has embedded a plan, in which the NPU's buffers lie over each other on purpose.

    Raises:
        UnsupportedModelError: the model is damaged, or has inner graphs.
    """
    parsed = read_model(model)
    buffers = _buffers(parsed)
    if _compiled_for_npu(parsed):
        return (compiled := _carried_out(parsed, buffers)), compiled
    own = greedy(buffers)
    best = optimal(buffers, node_limit=node_limit)
    carried_out = greedy(buffers, tensor_offsets(best))
    if carried_out.size_bytes >= own.size_bytes:
        return own, own
    proved = best.proved and carried_out.size_bytes == best.size_bytes
    return own, as_plan(buffers, carried_out.offsets, proved=proved)


def carried_plan(model: bytes) -> Plan:
    """Return what the interpreter makes of a file as it is: around the plan that it brings along, or its own.

    Raises:
        UnsupportedModelError: the model is damaged, has inner graphs, or a plan for another number of tensors, with
            which it does not load.
    """
    parsed = read_model(model)
    return _carried_out(parsed, _buffers(parsed))


def embed_plan(model: bytes, plan: Plan) -> bytes:
    """Return the model with a plan in its metadata, in place of one that it had.

    Raises:
        UnsupportedModelError: the model is damaged, or has inner graphs.
        ModelFailedError: the plan is another model's, or lets two buffers overlap.
    """
    parsed = read_model(model)
    _check(plan, _buffers(parsed))
    offsets = tensor_offsets(plan)
    tensors = len(parsed.subgraphs[0].tensors)
    words = [_VERSION, len(parsed.subgraphs), tensors, *(offsets.get(number, _ONLINE) for number in range(tensors))]
    _write(parsed, np.array(words, dtype="<i4"))
    return bytes(flatbuffer_utils.convert_object_to_bytearray(parsed))


def without_plan(model: bytes) -> bytes:
    """Return the model without the plan that it brings along; one that has none comes back as it is.

    Raises:
        UnsupportedModelError: the model is damaged.
    """
    parsed = read_model(model)
    kept = [entry for entry in parsed.metadata or () if entry.name != METADATA_NAME]
    if len(kept) == len(parsed.metadata or ()):
        return model
    parsed.metadata = kept
    return bytes(flatbuffer_utils.convert_object_to_bytearray(parsed))


def read_plan(model: bytes) -> dict[int, int]:
    """Return the offsets that a model brings along, by tensor; empty where it has none.

    Raises:
        UnsupportedModelError: the model is damaged, or its plan is for another number of tensors.
    """
    return _embedded(read_model(model))


def tensor_offsets(plan: Plan) -> dict[int, int]:
    """Return a plan's offsets by tensor, without scratch."""
    return {b.tensor: offset for b, offset in zip(plan.buffers, plan.offsets, strict=True) if b.tensor is not None}


def variable_tensors(model: Model) -> frozenset[int]:
    """Return the numbers of the tensors that keep their value between inferences."""
    return frozenset(number for number, tensor in enumerate(model.subgraphs[0].tensors) if tensor.isVariable)


def _carried_out(model: Model, buffers: tuple[Buffer, ...]) -> Plan:
    plan = greedy(buffers, _embedded(model))
    # The buffers of an NPU lie over each other on purpose, below what would bound them if they did not.
    return replace(plan, bound_bytes=min(plan.bound_bytes, plan.size_bytes)) if _compiled_for_npu(model) else plan


def _compiled_for_npu(model: Model) -> bool:
    return any(operator.name == NPU_OPERATOR for operator in graph_facts(model, 0).operators)


def _embedded(model: Model) -> dict[int, int]:
    for entry in model.metadata or ():
        data = model.buffers[entry.buffer].data
        if entry.name == METADATA_NAME and data is not None:
            offsets = np.frombuffer(bytes(data), dtype="<i4")[_HEADER:]
            _check_length(len(offsets), sum(len(graph.tensors) for graph in model.subgraphs))
            return {number: int(offset) for number, offset in enumerate(offsets) if offset != _ONLINE}
    return {}


def _check_length(planned: int, tensors: int) -> None:
    if planned != tensors:
        raise UnsupportedModelError(
            f"the model brings an arena plan for {planned} tensors along, and has {tensors}: TFLM would not load it",
            hint="plan the arena after all steps that change tensors, or leave the plan out",
        )


def _buffers(model: Model) -> tuple[Buffer, ...]:
    if len(model.subgraphs) > 1:
        raise UnsupportedModelError(
            f"the model has {len(model.subgraphs)} graphs, and the arena of inner graphs is not planned here",
            hint="unroll its control flow (in Keras LSTM(…, unroll=True)), or choose a profile of another runtime",
        )
    return live_buffers(graph_facts(model, 0), variable_tensors(model))


def _check(plan: Plan, buffers: tuple[Buffer, ...]) -> None:
    if plan.buffers != buffers:
        raise ModelFailedError(
            f"the arena plan places {len(plan.buffers)} buffers that are not the model's {len(buffers)}",
            hint="plan this very model (plan_for), and change neither tensors nor operators before embedding",
        )
    wrong = next(faults(plan), None)
    if wrong is not None:
        raise ModelFailedError(f"the arena plan is unsound: {wrong}", hint="please report this with the model")


def _write(model: Model, words: "np.ndarray[tuple[int, ...], np.dtype[np.int32]]") -> None:
    data = np.frombuffer(words.tobytes(), dtype=np.uint8)
    for entry in model.metadata or ():
        if entry.name == METADATA_NAME:
            model.buffers[entry.buffer].data = data
            return
    buffer = schema.BufferT()
    buffer.data = data
    model.buffers.append(buffer)
    entry = schema.MetadataT()
    entry.name = METADATA_NAME
    entry.buffer = len(model.buffers) - 1
    model.metadata = [*(model.metadata or ()), entry]
