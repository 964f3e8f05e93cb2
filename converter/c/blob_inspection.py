# SPDX-License-Identifier: Apache-2.0
"""What a model blob holds, as a document and as text."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

from converter.adapters.imports.model_files import read_any
from converter.c.core.blob_format import MAGIC
from converter.c.core.blob_reader import BlobEnd, BlobFacts, BlobLayer, read_blob
from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.manifest import Fact

BLOB_SUFFIX = ".blob"
_HINT = "model blobs are written by 'edgefleet export'"


class BlobTensorDocument(Fact, frozen=True, kw_only=True):
    """An input or output; ``scale`` and ``zero_point`` are absent where it is not quantized."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None
    zero_point: int | None
    arena_at: int
    size_bytes: int


class BlobLayerDocument(Fact, frozen=True, kw_only=True):
    """One layer; ``inputs`` and ``outputs`` are arena offsets.

    ``parameter_bytes`` counts its geometry, arithmetic and weights; ``once`` says that it runs when the arena is bound.
    """

    variant: str
    operator: int
    parameter_bytes: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    output_bytes: int
    once: bool


class BlobInspection(Fact, frozen=True, kw_only=True):
    """A model blob's facts.

    ``plan`` is the fingerprint of the layers: programs for a blob with the same one run this one as it is.
    ``model_sha256`` is that of the model that it was made from, ``sha256`` the file's.
    """

    file: str
    kind: str = "model-blob"
    sha256: str
    size_bytes: int
    model_sha256: str
    plan: str
    numerics: str
    kernel_set: str
    arena_bytes: int
    scratch_bytes: int
    state_bytes: int
    parity_vectors: int
    variants: tuple[str, ...]
    inputs: tuple[BlobTensorDocument, ...]
    outputs: tuple[BlobTensorDocument, ...]
    layers: tuple[BlobLayerDocument, ...]


def is_blob(path: Path) -> bool:
    """Return whether a file is named as a model blob, or begins like one; what cannot be read is none."""
    if path.suffix == BLOB_SUFFIX:
        return True
    try:
        with path.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def inspect_blob(path: Path) -> BlobInspection:
    """Read a model blob.

    Raises:
        FileMissingError: there is no such file, or it cannot be read.
        UnsupportedModelError: it is damaged, cut off, or no model blob.
    """
    data = read_any(path, hint=_HINT)
    facts = read_blob(data)
    return BlobInspection(
        file=path.name,
        sha256=sha256_hex(data),
        size_bytes=len(data),
        model_sha256=facts.model_sha256.hex(),
        plan=f"{facts.plan:08x}",
        numerics=facts.numerics,
        kernel_set=facts.kernel_set,
        arena_bytes=facts.arena_bytes,
        scratch_bytes=facts.scratch_bytes,
        state_bytes=facts.state_bytes,
        parity_vectors=len(facts.vectors),
        variants=facts.variants,
        inputs=tuple(map(_tensor, facts.inputs)),
        outputs=tuple(map(_tensor, facts.outputs)),
        layers=_layers(facts),
    )


def describe_blob(found: BlobInspection) -> str:
    """Return an inspection as text."""
    used = Counter(layer.variant for layer in found.layers)
    return "\n".join(
        [
            f"{found.file}: model blob, {found.size_bytes:,} bytes",
            f"sha256: {found.sha256}",
            f"made from the model with sha256 {found.model_sha256}; plan {found.plan}",
            f"{found.numerics}, {found.kernel_set} kernels; {found.parity_vectors} parity vectors",
            f"arena: {found.arena_bytes:,} bytes (scratch {found.scratch_bytes:,}, state {found.state_bytes:,})",
            *(_tensor_line("input", tensor) for tensor in found.inputs),
            *(_tensor_line("output", tensor) for tensor in found.outputs),
            f"{len(found.variants)} kernel variants:",
            *(f"  {used[variant]:>3}x {variant}" for variant in found.variants),
            f"{len(found.layers)} layers:",
            *(_layer_line(number, layer) for number, layer in enumerate(found.layers)),
        ]
    )


def _tensor(end: BlobEnd) -> BlobTensorDocument:
    return BlobTensorDocument(
        name=end.name,
        dtype=end.dtype,
        shape=end.shape,
        scale=end.scale or None,
        zero_point=end.zero_point if end.scale else None,
        arena_at=end.arena_at,
        size_bytes=end.size_bytes,
    )


def _layers(facts: BlobFacts) -> tuple[BlobLayerDocument, ...]:
    """Return the layers; parameters of one end where those of the next begin."""
    begins = sorted(layer.layer_at for layer in facts.layers)
    ends = dict(pairwise([*begins, facts.layers_end]))
    return tuple(_layer(layer, ends[layer.layer_at] - layer.layer_at) for layer in facts.layers)


def _layer(layer: BlobLayer, parameter_bytes: int) -> BlobLayerDocument:
    return BlobLayerDocument(
        variant=layer.variant,
        operator=layer.operator,
        parameter_bytes=parameter_bytes,
        inputs=layer.inputs,
        outputs=layer.outputs,
        output_bytes=layer.output_bytes,
        once=layer.once,
    )


def _tensor_line(kind: str, tensor: BlobTensorDocument) -> str:
    shape = "×".join(map(str, tensor.shape)) or "scalar"
    quantized = "" if tensor.scale is None else f", scale {tensor.scale:.6g}, zero point {tensor.zero_point}"
    return f"{kind}: {tensor.name} {shape} {tensor.dtype}{quantized}, {tensor.size_bytes:,} bytes"


def _layer_line(number: int, layer: BlobLayerDocument) -> str:
    once = ", once" if layer.once else ""
    return (
        f"  {number:>3} operator {layer.operator}, {layer.variant}: parameters {layer.parameter_bytes:,} bytes, "
        f"output {layer.output_bytes:,} bytes{once}"
    )
