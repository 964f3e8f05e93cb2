# SPDX-License-Identifier: Apache-2.0
"""The bill of materials of a bundle: CycloneDX 1.6 JSON with a model card (ECMA-424, first edition).

What the bundle is, what it was made from, which tools took part, and how it scored. Equal facts give equal bytes; the
serial number follows from the bundle's hash.
"""

import uuid
from typing import Any

from edgefleet.contracts.canonical import canonical_json
from edgefleet.contracts.evidence import ConversionEvidence, Interval, Score
from edgefleet.contracts.manifest import Lineage, Manifest, Member, TensorSpec, Tool
from edgefleet.contracts.names import bundle_file_name

Json = dict[str, Any]
_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:edgefleet:bundle")
_APPROACHES = {
    "classification": "supervised",
    "regression": "supervised",
    "detection": "supervised",
    "anomaly": "unsupervised",
}


def ml_bom(manifest: Manifest, evidence: ConversionEvidence) -> bytes:
    """Return ``X.mlbom.json`` for the bundle that ``evidence`` names; its ``created_at`` is the document's time."""
    parts = [_source(manifest), *_sample_sets(manifest), _recipe(manifest.lineage)]
    tools = [_tool(tool) for tool in manifest.lineage.tools]
    return canonical_json(
        {
            "bomFormat": "CycloneDX",
            "specVersion": "1.6",
            "serialNumber": f"urn:uuid:{uuid.uuid5(_NAMESPACE, evidence.bundle_sha256)}",
            "version": 1,
            "metadata": {
                "timestamp": evidence.created_at,
                "lifecycles": [{"phase": "build"}],
                "tools": {"components": tools},
                "component": _bundle(manifest, evidence, [part["bom-ref"] for part in parts]),
            },
            "components": parts,
            "dependencies": [
                {"ref": "bundle", "dependsOn": [part["bom-ref"] for part in parts]},
                *({"ref": part["bom-ref"]} for part in parts),
            ],
        }
    )


def _bundle(manifest: Manifest, evidence: ConversionEvidence, made_from: list[str]) -> Json:
    return {
        "type": "machine-learning-model",
        "bom-ref": "bundle",
        "name": manifest.name,
        "version": manifest.version,
        "description": f"A {manifest.task} model in {manifest.precision} for {manifest.profile.id}, as one bundle.",
        "hashes": _hashes(evidence.bundle_sha256),
        "modelCard": _model_card(manifest, evidence, [ref for ref in made_from if ref.endswith("-samples")]),
        "components": [_member(member) for member in manifest.members],
        "properties": _properties(
            {
                "file": bundle_file_name(manifest.name, manifest.version, manifest.profile.id),
                "profile": manifest.profile.id,
                "compat-hash": manifest.profile.compat_hash,
                "runtime": f"{manifest.runtime.kind} {manifest.runtime.minimum_version}",
                "numerics": manifest.runtime.numerics,
                "precision": manifest.precision,
                "execution": manifest.execution,
                "bundle-bytes": str(evidence.bundle_bytes),
                "model-bytes": str(evidence.model_bytes),
                "rewrites": "; ".join(manifest.lineage.rewrites),
            }
        ),
    }


def _model_card(manifest: Manifest, evidence: ConversionEvidence, sample_sets: list[str]) -> Json:
    card: Json = {
        "modelParameters": {
            "approach": {"type": _APPROACHES[manifest.task]},
            "task": manifest.task,
            "datasets": [{"ref": ref} for ref in sample_sets],
            "inputs": [{"format": _format(spec)} for spec in manifest.interface.inputs],
            "outputs": [{"format": _format(spec)} for spec in manifest.interface.outputs],
        }
    }
    figures = _figures(evidence)
    if figures:
        card["quantitativeAnalysis"] = {"performanceMetrics": figures}
    if evidence.warnings:
        card["considerations"] = {"technicalLimitations": list(evidence.warnings)}
    return card


def _figures(evidence: ConversionEvidence) -> list[Json]:
    scores = (("evaluation", evidence.evaluation), ("acceptance", evidence.acceptance))
    figures = [_figure(score, part) for part, score in scores if score is not None]
    if evidence.comparison is not None and evidence.evaluation is not None:
        difference = {
            "type": f"{evidence.evaluation.metric}, converted minus float",
            "value": repr(evidence.comparison.difference),
            "slice": "evaluation",
            "confidenceInterval": _interval(evidence.comparison.interval),
        }
        figures.append(difference)
        if evidence.comparison.rank_correlation is not None:
            rank = {"type": "rank correlation with float", "value": repr(evidence.comparison.rank_correlation)}
            figures.append({**rank, "slice": "evaluation"})
    for row in evidence.confusion.classes if evidence.confusion is not None else ():
        figures += [
            {"type": kind, "value": repr(value), "slice": f"evaluation, class {row.label}"}
            for kind, value in (("precision", row.precision), ("recall", row.recall), ("f1", row.f1))
        ]
    return figures


def _figure(score: Score, part: str) -> Json:
    return {"type": score.metric, "value": repr(score.value), "slice": part}


def _interval(interval: Interval) -> Json:
    return {"lowerBound": repr(interval.low), "upperBound": repr(interval.high)}


def _source(manifest: Manifest) -> Json:
    return {
        "type": "machine-learning-model",
        "bom-ref": "source-model",
        "name": f"{manifest.name}, source model",
        "hashes": _hashes(manifest.lineage.source_sha256),
    }


def _sample_sets(manifest: Manifest) -> list[Json]:
    """Return the data components; calibration and evaluation sets are known by their content, whatever their files."""
    lineage, parts = manifest.lineage, []
    for kind, sha256 in (("calibration", lineage.calibration_sha256), ("evaluation", lineage.evaluation_sha256)):
        if sha256 is not None:
            parts.append(_data(f"{kind}-samples", f"{kind} samples", _properties({"sample-set-sha256": sha256})))
    if manifest.acceptance is not None:
        examples = _data("acceptance-samples", "acceptance examples", _properties({}))
        parts.append({**examples, "hashes": _hashes(manifest.acceptance.sha256)})
    return parts


def _data(reference: str, name: str, properties: list[Json]) -> Json:
    return {
        "type": "data",
        "bom-ref": reference,
        "name": name,
        "data": [{"type": "dataset", "name": name}],
        "properties": properties,
    }


def _recipe(lineage: Lineage) -> Json:
    return {
        "type": "data",
        "bom-ref": "recipe",
        "name": "recipe",
        "data": [{"type": "configuration", "name": "recipe"}],
        "hashes": _hashes(lineage.recipe_sha256),
    }


def _member(member: Member) -> Json:
    return {
        "type": "file",
        "bom-ref": f"member:{member.path}",
        "name": member.path,
        "hashes": _hashes(member.sha256),
        "properties": _properties({"size-bytes": str(member.size_bytes)}),
    }


def _tool(tool: Tool) -> Json:
    return {
        "type": "library",
        "bom-ref": f"tool:{tool.name}",
        "name": tool.name,
        "version": tool.version,
        "purl": f"pkg:pypi/{tool.name}@{tool.version}",
    }


def _format(spec: TensorSpec) -> str:
    shape = "×".join(map(str, spec.shape))
    quantized = "" if spec.scale is None else f", scale {spec.scale!r}, zero point {spec.zero_point}"
    return f"{spec.name}: {spec.dtype} [{shape}]{quantized}"


def _hashes(sha256: str) -> list[Json]:
    return [{"alg": "SHA-256", "content": sha256}]


def _properties(values: dict[str, str]) -> list[Json]:
    return [{"name": f"edgefleet:{name}", "value": value} for name, value in values.items() if value]
