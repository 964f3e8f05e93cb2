# SPDX-License-Identifier: Apache-2.0
"""Write a TFLite flatbuffer as small as the format allows without changing what it computes.

What a plain writer wastes, and this one does not:

* Equal vectors and strings stand in the file once (a quantized model repeats shapes and long runs of zero points).
* Inner tensors are named by their number. Names of inputs and outputs, and signatures, stay: applications use them.
* Constants that no tensor or metadata entry refers to, and quantization tables that say nothing, are left out.

Constants start at multiples of 16 bytes, as TensorFlow's converter writes them: some kernels read whole vectors.
Metadata stays as it is, by number of tensor and subgraph (``OfflineMemoryAllocation``), as tensors keep their order.

This must be the last writer: whoever unpacks the file into objects and packs it again, writes each vector again.
"""

from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt

from converter.adapters.flatbuffers.reading import Model, read_model

Array = npt.NDArray[Any]
_FILE_IDENTIFIER = b"TFL3"
_ALIGNMENT_BYTES = 16


def compact(model: bytes) -> bytes:
    """Return the same model in fewer bytes; a compact model comes back as it is.

    Raises:
        UnsupportedModelError: the buffer is damaged, or has no graph.
    """
    tree = read_model(model)
    _drop_unused_buffers(tree)
    for graph in tree.subgraphs:
        _shorten_names(tree, graph)
        _drop_empty_quantization(graph)
    builder = _SharingBuilder(len(model))
    builder.Finish(_with_vectors(tree).Pack(builder), file_identifier=_FILE_IDENTIFIER)
    return bytes(builder.Output())


class _SharingBuilder(flatbuffers.Builder):  # type: ignore[misc]  # flatbuffers is untyped
    """A builder that writes equal vectors and equal strings once, and bytes (constants) at multiples of 16."""

    def __init__(self, initial_bytes: int) -> None:
        super().__init__(initial_bytes)
        self._vectors: dict[tuple[str, bytes], int] = {}
        self._strings: dict[bytes, int] = {}

    def CreateNumpyVector(self, x: Array) -> int:  # noqa: N802  # the name is the base class's
        """Write a vector, or return where an equal one stands."""
        key = (x.dtype.str, x.tobytes())
        if key not in self._vectors:
            self._vectors[key] = self._bytes_vector(x) if x.dtype == np.uint8 else int(super().CreateNumpyVector(x))
        return self._vectors[key]

    def CreateString(self, s: str | bytes, encoding: str = "utf-8", errors: str = "strict") -> int:  # noqa: N802
        """Write a string, or return where an equal one stands."""
        key = s if isinstance(s, bytes) else s.encode(encoding, errors)
        if key not in self._strings:
            self._strings[key] = int(super().CreateString(key))
        return self._strings[key]

    def _bytes_vector(self, x: Array) -> int:
        self.StartVector(1, x.size, _ALIGNMENT_BYTES)
        self.head -= x.size
        self.Bytes[self.head : self.head + x.size] = x.tobytes()
        self.vectorNumElems = x.size
        return int(self.EndVector())


def _drop_unused_buffers(tree: Model) -> None:
    """Keep the buffers that something refers to, in their order; the first one is empty by the format's rule."""
    holders = [tensor for graph in tree.subgraphs for tensor in graph.tensors] + list(tree.metadata or ())
    used = sorted({0, *(int(holder.buffer) for holder in holders), *map(int, tree.metadataBuffer or ())})
    places = {old: new for new, old in enumerate(used)}
    tree.buffers = [tree.buffers[old] for old in used]
    for holder in holders:
        holder.buffer = places[int(holder.buffer)]
    if tree.metadataBuffer is not None:
        tree.metadataBuffer = [places[int(number)] for number in tree.metadataBuffer]


def _shorten_names(tree: Model, graph: Any) -> None:
    """Name inner tensors by their number, or by the next number that no input or output is named."""
    interface = _interface(tree, graph)
    taken = {graph.tensors[number].name for number in interface}
    for number, tensor in enumerate(graph.tensors):
        if number in interface:
            continue
        short = b"%d" % number
        while short in taken:
            number += len(graph.tensors)  # looks on where no tensor's own number lies
            short = b"%d" % number
        taken.add(short)
        tensor.name = short


def _interface(tree: Model, graph: Any) -> set[int]:
    position = tree.subgraphs.index(graph)
    numbers = {int(number) for number in (*graph.inputs, *graph.outputs)}
    for signature in tree.signatureDefs or ():
        if int(signature.subgraphIndex) == position:
            numbers |= {int(entry.tensorIndex) for entry in (*(signature.inputs or ()), *(signature.outputs or ()))}
    return numbers


def _drop_empty_quantization(graph: Any) -> None:
    for tensor in graph.tensors:
        found = tensor.quantization
        if found is not None and not any(
            _given(value) for value in (found.scale, found.zeroPoint, found.min, found.max, found.details)
        ):
            tensor.quantization = None


def _given(value: Any) -> bool:
    return value is not None and (not hasattr(value, "__len__") or len(value) > 0)


def _with_vectors(value: Any) -> Any:
    """Turn the lists of integers of a parsed model into arrays, which the builder writes as shareable vectors.

    The reader makes lists of 32-bit integers only; what has another width stays an array.
    """
    if isinstance(value, list):
        if value and all(isinstance(entry, int | np.integer) for entry in value):
            return np.asarray(value, dtype=np.int32)
        return [_with_vectors(entry) for entry in value]
    if hasattr(value, "__dict__"):
        for name, entry in vars(value).items():
            setattr(value, name, _as_bytes_array(entry) if name == "data" else _with_vectors(entry))
    return value


def _as_bytes_array(data: Any) -> Any:
    """Return a buffer's content as an array; one that lay behind the flatbuffer comes as bytes."""
    return np.frombuffer(bytes(data), dtype=np.uint8) if isinstance(data, bytes | bytearray | memoryview) else data
