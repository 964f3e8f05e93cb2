# SPDX-License-Identifier: Apache-2.0
"""The model card: a bundle's deterministic facts for people. What was measured stands in the evidence beside it."""

from converter.core.graph import GraphFacts
from edgefleet.contracts.manifest import (
    ArenaPlan,
    AudioPreprocessing,
    FeaturePreprocessing,
    ImagePreprocessing,
    Manifest,
    TensorSpec,
)


def model_card(manifest: Manifest, facts: GraphFacts, making: str, notes: tuple[str, ...]) -> bytes:
    """Return MODEL_CARD.md for a manifest (its member list is not read, as the card is one of them).

    ``making`` says in a few words what the recipe did.
    """
    sections = [
        *_head(manifest),
        _section("Interface", _interface(manifest)),
        _section("Preprocessing", _preprocessing(manifest)),
        _section("How it was made", _lineage(manifest, making)),
        _section("What is in it", [*_operators(facts), *_arena(manifest.arena)]),
        _section("How it is checked on a device", _checks(manifest)),
    ]
    if notes:
        sections.append(_section("Notes", [f"- {note}" for note in notes]))
    return ("\n\n".join(sections) + "\n").encode()


def _head(manifest: Manifest) -> list[str]:
    article = "An" if manifest.task == "anomaly" else "A"
    paragraphs = [
        f"# {manifest.name} {manifest.version} for {manifest.profile.id}",
        f"{article} {manifest.task} model in {manifest.precision}, for {manifest.runtime.kind} "
        f"{manifest.runtime.minimum_version} or later ({manifest.runtime.numerics}). "
        "What was measured (accuracy, latency, sizes) stands in the evidence file beside the bundle.",
    ]
    accelerator = manifest.runtime.accelerator
    if accelerator is not None:
        share = f"{100 * accelerator.npu_share:.1f} %"
        paragraphs.append(f"Compiled for the accelerator {accelerator.id}, which runs {share} of the operators.")
    if manifest.execution == "compiled-not-run":
        paragraphs.append(
            "**Compiled, not run**: nothing at conversion could run it as the board will. "
            "Publishing it needs a policy that says so."
        )
    return paragraphs


def _section(title: str, lines: list[str]) -> str:
    return "\n".join([f"## {title}", "", *lines])


def _interface(manifest: Manifest) -> list[str]:
    rows = ["| | name | shape | type | scale | zero point |", "|---|---|---|---|---|---|"]
    rows += [_row("input", spec) for spec in manifest.interface.inputs]
    rows += [_row("output", spec) for spec in manifest.interface.outputs]
    labels = manifest.interface.labels
    said = [_reading(manifest), f"Classes: {', '.join(labels)}." if labels else ""]
    return [*rows, *(line for text in said if text for line in ("", text))]


def _reading(manifest: Manifest) -> str:
    """Return how the task reads the outputs, where that is more than the first output."""
    interface = manifest.interface
    if interface.roles:
        beyond = " Rows beyond the count are zeros." if "count" in interface.roles else ""
        return f"The outputs are, in order: {', '.join(interface.roles)}.{beyond}"
    if manifest.task == "anomaly" and interface.inputs[0].shape == interface.outputs[0].shape:
        return "The score of an anomaly is the mean squared error between the input and its reconstruction, the output."
    return ""


def _row(kind: str, spec: TensorSpec) -> str:
    shape = "×".join(str(size) for size in spec.shape)
    quantization = f"{spec.scale!r} | {spec.zero_point}" if spec.scale is not None else "– | –"
    return f"| {kind} | `{spec.name}` | {shape} | {spec.dtype} | {quantization} |"


def _preprocessing(manifest: Manifest) -> list[str]:
    how = manifest.preprocessing
    if how.image is not None:
        return [_pictures(how.image)]
    if how.audio is not None:
        return [_clips(how.audio)]
    if how.features is not None:
        return _columns(how.features)
    return ["None: inputs come in the model's own units."]


def _pictures(image: ImagePreprocessing) -> str:
    height, width = image.size
    return (
        f"8-bit RGB pictures are resized to {height}×{width} ({image.resize}), channels taken as {image.channels}, "
        f"then pixel × {image.scale!r} + {image.offset!r}."
    )


def _clips(audio: AudioPreprocessing) -> str:
    clip = f"Mono clips at {audio.sample_rate_hz} Hz are cut or padded to {audio.clip_samples} samples"
    then = f"then x × {audio.scale!r} + {audio.offset!r}."
    if audio.kind == "waveform":
        return f"{clip}, {then}"
    coefficients = f", of which {audio.coefficients} DCT coefficients are kept" if audio.kind == "mfcc" else ""
    return (
        f"{clip}; frames of {audio.frame_samples} every {audio.stride_samples} samples, FFT of {audio.fft_samples}, "
        f"{audio.mel_bins} mel bins from {audio.low_hz:g} to {audio.high_hz:g} Hz, "
        f"their logarithm{coefficients}; {then}"
    )


def _columns(features: FeaturePreprocessing) -> list[str]:
    rows = [
        f"| {number} | {mean!r} | {deviation!r} |"
        for number, (mean, deviation) in enumerate(zip(features.mean, features.deviation, strict=True))
    ]
    head = ["Each column becomes (x − mean) / deviation:", "", "| column | mean | deviation |", "|---|---|---|"]
    return [*head, *rows]


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
    lines += [f"- {rewrite}" for rewrite in lineage.rewrites]
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


def _arena(plan: ArenaPlan | None) -> list[str]:
    if plan is None:
        return []
    who = "embedded in the model" if plan.planner == "offline" else "the interpreter's own"
    return [
        "",
        f"Activations take {plan.head_bytes} bytes by a plan that is {who} (no plan takes less than "
        f"{plan.bound_bytes}); with the interpreter's structures the arena is {plan.total_bytes} bytes.",
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
