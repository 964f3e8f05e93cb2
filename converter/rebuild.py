# SPDX-License-Identifier: Apache-2.0
"""Make a bundle again from its sources, and say what differs where the bytes do."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

import msgspec

from converter.adapters.imports.model_files import source_sha256
from converter.adapters.samples.sets import SampleSet, open_samples, sample_set_sha256
from converter.core.recipe import Recipe, read_recipe, recipe_sha256
from converter.core.request import ConversionRequest
from converter.core.scoring import Metric
from converter.pipeline import convert
from converter.proof import acceptance_npz
from edgefleet.contracts.bundle import Bundle, open_bundle
from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.manifest import RECIPE_PATH, Fact, Manifest
from edgefleet.contracts.profile import Profile, compat_hash

_NONE = "none"


class Finding(Fact, frozen=True, kw_only=True):
    """One thing that is not what the bundle was made from: hashes or versions, or ``none``."""

    what: str
    recorded: str
    found: str


class Difference(Fact, frozen=True, kw_only=True):
    """A bundle beside what its sources make today.

    ``findings`` name the sources, settings and tools that differ. Where a source differs the bundle cannot come out the
    same, so that it is not made again and ``rebuilt_sha256`` is absent. ``parts`` name the members and the fields of
    the manifest that came out otherwise.
    """

    bundle: str
    same: bool
    sha256: str
    rebuilt_sha256: str | None = None
    findings: tuple[Finding, ...] = ()
    parts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RebuildSources:
    """What a bundle is made again from, as it was named when it was made; ``recipe`` is the bundle's own if absent."""

    model: Path
    profile: Profile
    metric: Metric
    calibration: Path | None = None
    evaluation: Path | None = None
    acceptance: Path | None = None
    recipe: Recipe | None = None


def rebuild(path: Path, sources: RebuildSources, *, now: datetime) -> Difference:
    """Make the bundle of ``path`` again and compare.

    Raises:
        FileMissingError, BundleError, SampleError: the bundle or a source cannot be read.
        RefusedError: all sources are the recorded ones, and the conversion is refused all the same.
    """
    bundle = open_bundle(path)
    findings = list(_source_findings(bundle, sources))
    tools = list(_tool_findings(bundle.manifest))
    if findings:
        return Difference(bundle=path.name, same=False, sha256=bundle.sha256, findings=(*findings, *tools))
    made = convert(_request(bundle, sources), now=now)
    rebuilt = sha256_hex(made.bundle)
    if rebuilt == bundle.sha256:
        return Difference(bundle=path.name, same=True, sha256=bundle.sha256, rebuilt_sha256=rebuilt)
    return Difference(
        bundle=path.name,
        same=False,
        sha256=bundle.sha256,
        rebuilt_sha256=rebuilt,
        findings=tuple(tools),
        parts=tuple(_parts(bundle.manifest, made.manifest)),
    )


def describe_difference(found: Difference) -> str:
    """Return what was found as text."""
    if found.same:
        return f"{found.bundle}: made again, the same to the byte\nsha256 {found.sha256}"
    if found.rebuilt_sha256 is None:
        head = f"{found.bundle}: not made again, as it would be another bundle"
    else:
        head = f"{found.bundle}: made again, and different\nsha256 {found.sha256}, now {found.rebuilt_sha256}"
    lines = [head, *(f"  {f.what} differs: recorded {f.recorded}, found {f.found}" for f in found.findings)]
    lines += [f"  came out otherwise: {part}" for part in found.parts]
    return "\n".join(lines)


def _source_findings(bundle: Bundle, sources: RebuildSources) -> Iterator[Finding]:
    """Yield the sources and settings whose hashes are not the recorded ones."""
    manifest, lineage = bundle.manifest, bundle.manifest.lineage
    calibration, evaluation, acceptance = (
        None if path is None else _open(path, manifest)
        for path in (sources.calibration, sources.evaluation, sources.acceptance)
    )
    recipe = sources.recipe
    pairs = [
        ("the source model", lineage.source_sha256, source_sha256(sources.model)),
        ("the recipe", lineage.recipe_sha256, lineage.recipe_sha256 if recipe is None else recipe_sha256(recipe)),
        ("the calibration set", lineage.calibration_sha256, calibration and sample_set_sha256(calibration)),
        ("the evaluation set", lineage.evaluation_sha256, evaluation and sample_set_sha256(evaluation)),
        (
            "the set of acceptance examples",
            manifest.acceptance and manifest.acceptance.sha256,
            acceptance and sha256_hex(acceptance_npz(acceptance, _input_names(manifest))),
        ),
        ("the profile", manifest.profile.compat_hash, compat_hash(sources.profile)),
        ("the profile's budgets", _budgets(manifest), _budgets(sources.profile)),
        ("the metric", manifest.metric, sources.metric.name),
    ]
    for what, recorded, found in pairs:
        if recorded != found:
            yield Finding(what=what, recorded=recorded or _NONE, found=found or _NONE)


def _tool_findings(manifest: Manifest) -> Iterator[Finding]:
    for tool in manifest.lineage.tools:
        try:
            found = installed(tool.name)
        except PackageNotFoundError:
            found = _NONE
        if found != tool.version:
            yield Finding(what=f"the tool {tool.name}", recorded=tool.version, found=found)


def _request(bundle: Bundle, sources: RebuildSources) -> ConversionRequest:
    manifest = bundle.manifest
    return ConversionRequest(
        model=sources.model,
        profile=sources.profile,
        name=manifest.name,
        version=manifest.version,
        task=manifest.task,
        metric=sources.metric,
        preprocessing=manifest.preprocessing,
        labels=manifest.interface.labels,
        recipe=sources.recipe or _recipe_of(bundle),
        calibration=sources.calibration,
        evaluation=sources.evaluation,
        acceptance=sources.acceptance,
    )


def _recipe_of(bundle: Bundle) -> Recipe | None:
    """Return the bundle's recipe; None where it has none, or took a quantized model as it is."""
    if RECIPE_PATH not in bundle.spans:
        return None
    data = bundle.read(RECIPE_PATH)
    if "precision" not in msgspec.json.decode(data, type=dict[str, msgspec.Raw]):
        return None
    return read_recipe(data, source=f"{bundle.path.name}/{RECIPE_PATH}")


def _parts(before: Manifest, after: Manifest) -> Iterator[str]:
    """Yield the members and fields that differ; members' hashes and the lineage's tools are told elsewhere."""
    old, new = ({member.path: member.sha256 for member in m.members} for m in (before, after))
    yield from (path for path in sorted(old.keys() | new.keys()) if old.get(path) != new.get(path))
    for field in before.__struct_fields__:
        if field != "members" and getattr(before, field) != getattr(after, field):
            yield f"manifest.{field}"


def _open(path: Path, manifest: Manifest) -> SampleSet:
    return open_samples(path, _input_names(manifest), manifest.interface.labels)


def _input_names(manifest: Manifest) -> list[str]:
    return [spec.name for spec in manifest.interface.inputs]


def _budgets(holder: Manifest | Profile) -> str:
    stated = {name: value for name, value in msgspec.to_builtins(holder.budgets).items() if value is not None}
    return ", ".join(f"{name} {value}" for name, value in sorted(stated.items()))
