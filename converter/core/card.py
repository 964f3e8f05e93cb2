# SPDX-License-Identifier: Apache-2.0
"""The model card: a bundle's deterministic facts for people. What was measured stands in the evidence beside it."""

from converter.core.graph import GraphFacts
from edgefleet.contracts.manifest import Manifest, TensorSpec


def model_card(manifest: Manifest, facts: GraphFacts, making: str, notes: tuple[str, ...]) -> bytes:
    """Return MODEL_CARD.md for a manifest (its member list is not read, as the card is one of them).

    ``making`` says in a few words what the recipe did.
    """
    sections = [
        _head(manifest),
        _section("Interface", _interface(manifest)),
        _section("Preprocessing", _preprocessing(manifest)),
        _section("How it was made", _lineage(manifest, making)),
        _section("What is in it", _operators(facts)),
        _section("How it is checked on a device", _checks(manifest)),
    ]
    if notes:
        sections.append(_section("Notes", [f"- {note}" for note in notes]))
    return ("\n\n".join(sections) + "\n").encode()


def _head(manifest: Manifest) -> str:
    return (
        f"# {manifest.name} {manifest.version} for {manifest.profile.id}\n\n"
        f"A {manifest.task} model in {manifest.precision}, for {manifest.runtime.kind} "
        f"{manifest.runtime.minimum_version} or later ({manifest.runtime.numerics}). "
        "What was measured (accuracy, latency, sizes) stands in the evidence file beside the bundle."
    )


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([f"## {title}", "", *lines])


def _interface(manifest: Manifest) -> list[str]:
    rows = ["| | name | shape | type | scale | zero point |", "|---|---|---|---|---|---|"]
    rows += [_row("input", spec) for spec in manifest.interface.inputs]
    rows += [_row("output", spec) for spec in manifest.interface.outputs]
    labels = manifest.interface.labels
    return [*rows, "", f"Classes: {', '.join(labels)}."] if labels else rows


def _row(kind: str, spec: TensorSpec) -> str:
    shape = "×".join(str(size) for size in spec.shape)
    quantization = f"{spec.scale!r} | {spec.zero_point}" if spec.scale is not None else "– | –"
    return f"| {kind} | `{spec.name}` | {shape} | {spec.dtype} | {quantization} |"


def _preprocessing(manifest: Manifest) -> list[str]:
    image = manifest.preprocessing.image
    if image is None:
        return ["None: inputs come in the model's own units."]
    height, width = image.size
    return [
        f"8-bit RGB pictures are resized to {height}×{width} ({image.resize}), channels taken as {image.channels}, "
        f"then pixel × {image.scale!r} + {image.offset!r}."
    ]


def _lineage(manifest: Manifest, making: str) -> list[str]:
    lineage = manifest.lineage
    lines = [
        f"- source: sha256 `{lineage.source_sha256}`",
        f"- recipe: sha256 `{lineage.recipe_sha256}`; {making}",
    ]
    if lineage.calibration_sha256:
        lines.append(f"- calibration samples: sha256 `{lineage.calibration_sha256}`")
    if lineage.evaluation_sha256:
        lines.append(f"- evaluation samples: sha256 `{lineage.evaluation_sha256}`")
    return [*lines, *(f"- {tool.name} {tool.version}" for tool in lineage.tools)]


def _operators(facts: GraphFacts) -> list[str]:
    counts: dict[tuple[str, int], int] = {}
    for operator in facts.operators:
        counts[operator.name, operator.version] = counts.get((operator.name, operator.version), 0) + 1
    rows = [f"| {name} | {version} | {count} |" for (name, version), count in sorted(counts.items())]
    constants = sum(tensor.constant_bytes for tensor in facts.tensors)
    return [
        f"{facts.size_bytes} bytes, of which {constants} are weights and other constants.",
        "",
        "| operator | version | count |",
        "|---|---|---|",
        *rows,
    ]


def _checks(manifest: Manifest) -> list[str]:
    tolerances = manifest.tolerances
    lines = [
        f"- parity vectors: {manifest.parity.samples}; reference kernels within {tolerances.reference:g}, "
        f"production kernels within {tolerances.production:g} ({tolerances.unit})"
    ]
    accepted = manifest.acceptance
    if accepted is not None:
        scored = f"{accepted.metric} {accepted.value:.4f}"
        lines.append(f"- acceptance examples: {accepted.samples}, {scored}, sha256 `{accepted.sha256}`")
    return lines
