# SPDX-License-Identifier: Apache-2.0
"""Look into a bundle or a model file without changing or trusting it."""

from pathlib import Path

from converter.adapters.flatbuffers.reading import read_facts
from converter.adapters.flatbuffers.soundness import check_sound
from converter.adapters.imports.model_files import read_source
from converter.core.board.checks import needed_runtime, outdated_operators
from converter.core.graph import GraphFacts
from converter.core.reports.drawing import graph_svg
from edgefleet.contracts.bundle import Bundle, open_bundle
from edgefleet.contracts.manifest import Fact, Manifest
from edgefleet.runtimes.probe import probe_model


class OperatorDocument(Fact, frozen=True, kw_only=True):
    """One operator of the graph, in the order of execution."""

    name: str
    version: int
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


class TensorDocument(Fact, frozen=True, kw_only=True):
    """One tensor; ``constant_bytes`` is 0 for what is computed."""

    number: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    constant_bytes: int
    scales: tuple[float, ...]
    zero_points: tuple[int, ...]


class ModelDocument(Fact, frozen=True, kw_only=True):
    """A model's facts."""

    size_bytes: int
    precision: str
    subgraphs: int
    stated_runtime_version: str | None
    needed_runtime_version: str
    outdated_operators: tuple[str, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operators: tuple[OperatorDocument, ...]
    tensors: tuple[TensorDocument, ...]


class Inspection(Fact, frozen=True, kw_only=True):
    """What was found in a file; ``manifest`` and ``sha256`` are a bundle's."""

    file: str
    model: ModelDocument
    sha256: str | None = None
    size_bytes: int
    manifest: Manifest | None = None


def inspect_file(path: Path) -> Inspection:
    """Read a bundle or a model file.

    Raises:
        FileMissingError: there is no such file.
        BundleError: it is named as a bundle, and is none.
        UnsupportedModelError, ModelFailedError: its model is damaged.
    """
    data, bundle = _read(path)
    return _inspection(path, data, bundle, _probed_facts(data))


def inspect_and_draw(path: Path) -> tuple[Inspection, bytes]:
    """Read a bundle or a model file, and draw its graph with sizes and precisions as an SVG file.

    Raises:
        FileMissingError, BundleError, UnsupportedModelError, ModelFailedError: as :func:`inspect_file`.
    """
    data, bundle = _read(path)
    facts = _probed_facts(data)
    return _inspection(path, data, bundle, facts), graph_svg(facts, title=path.name).encode()


def describe(found: Inspection) -> str:
    """Return an inspection as text."""
    model = found.model
    lines = [f"{found.file}: {found.size_bytes} bytes"]
    if found.manifest is not None:
        lines += _manifest_lines(found.manifest, found.sha256 or "")
    lines.append(
        f"model: {model.size_bytes} bytes, {model.precision}, needs TFLite {model.needed_runtime_version} or later"
    )
    lines += [_tensor_line("input", model.tensors[number]) for number in model.inputs]
    lines += [_tensor_line("output", model.tensors[number]) for number in model.outputs]
    lines.append(f"{len(model.operators)} operators:")
    lines += [
        f"  {place:>3} {operator.name} v{operator.version} → {_shape(model.tensors[operator.outputs[0]])}"
        for place, operator in enumerate(model.operators)
    ]
    constants = sum(tensor.constant_bytes for tensor in model.tensors)
    lines.append(f"{len(model.tensors)} tensors, {constants} bytes of constants")
    lines += [f"note: {name} says a lower version than its types need" for name in model.outdated_operators]
    return "\n".join(lines)


def _read(path: Path) -> tuple[bytes, Bundle | None]:
    """Return the model's bytes, and the bundle that they lie in, if it is one."""
    if path.suffix == ".bundle":
        bundle = open_bundle(path)
        return bundle.read(bundle.manifest.model), bundle
    return read_source(path).data, None


def _probed_facts(data: bytes) -> GraphFacts:
    probe_model(data, kernels="reference")
    check_sound(data)
    return read_facts(data)


def _inspection(path: Path, data: bytes, bundle: Bundle | None, facts: GraphFacts) -> Inspection:
    return Inspection(
        file=path.name,
        model=_document(facts),
        sha256=None if bundle is None else bundle.sha256,
        size_bytes=len(data) if bundle is None else bundle.size_bytes,
        manifest=None if bundle is None else bundle.manifest,
    )


def _document(facts: GraphFacts) -> ModelDocument:
    return ModelDocument(
        size_bytes=facts.size_bytes,
        precision=facts.precision(),
        subgraphs=facts.subgraphs,
        stated_runtime_version=facts.minimum_runtime_version,
        needed_runtime_version=needed_runtime(facts),
        outdated_operators=outdated_operators(facts),
        inputs=facts.inputs,
        outputs=facts.outputs,
        operators=tuple(
            OperatorDocument(name=o.name, version=o.version, inputs=o.inputs, outputs=o.outputs)
            for o in facts.operators
        ),
        tensors=tuple(
            TensorDocument(
                number=number,
                name=tensor.name,
                shape=tensor.shape,
                dtype=tensor.dtype,
                constant_bytes=tensor.constant_bytes,
                scales=tensor.scales,
                zero_points=tensor.zero_points,
            )
            for number, tensor in enumerate(facts.tensors)
        ),
    )


def _manifest_lines(manifest: Manifest, sha256: str) -> list[str]:
    return [
        f"sha256: {sha256}",
        f"{manifest.name} {manifest.version} for {manifest.profile.id}: {manifest.task}, metric {manifest.metric}",
        f"runtime: {manifest.runtime.kind} {manifest.runtime.minimum_version} or later, {manifest.runtime.numerics}",
        *(f"  {member.size_bytes:>9} {member.path}" for member in manifest.members),
    ]


def _tensor_line(kind: str, tensor: TensorDocument) -> str:
    quantized = f", scale {tensor.scales[0]:.6g}, zero point {tensor.zero_points[0]}" if tensor.scales else ""
    return f"{kind}: {tensor.name} {_shape(tensor)} {tensor.dtype}{quantized}"


def _shape(tensor: TensorDocument) -> str:
    return "×".join(str(size) for size in tensor.shape) or "scalar"
