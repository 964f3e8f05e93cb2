# SPDX-License-Identifier: Apache-2.0
"""Make a bundle again from its sources, and say what differs where the bytes do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from pathlib import Path

import msgspec

from converter.adapters.imports.model_files import source_sha256
from converter.adapters.samples.sets import SampleSet, sample_set_sha256
from converter.adapters.settings import read_recipe_file
from converter.core.recipe import Recipe, read_recipe, recipe_sha256
from converter.core.request import ConversionRequest
from converter.core.scoring import Metric
from converter.pipeline import NOTHING_HELD, Held, convert, open_set
from converter.proof import acceptance_npz
from edgefleet.contracts.bundle import Bundle, open_bundle
from edgefleet.contracts.canonical import canonical_json, sha256_hex
from edgefleet.contracts.errors import SampleError, SettingError
from edgefleet.contracts.manifest import ACCEPTANCE_PATH, RECIPE_PATH, Fact, Manifest, Preprocessing
from edgefleet.contracts.profile import Profile, compat_hash
from edgefleet.runtimes.examples import LABELS, ONLY_INPUT, read_examples

_NONE = "none"
_EVALUATION = "the evaluation set"
#: Stands for the acceptance examples that the bundle itself carries.
_OWN_EXAMPLES = Path("the bundle's own acceptance examples")


class Finding(Fact, frozen=True, kw_only=True):
    """One thing that is not what the bundle was made from: hashes or versions, or ``none``."""

    what: str
    recorded: str
    found: str


class Difference(Fact, frozen=True, kw_only=True):
    """A bundle beside what its sources make today.

    ``findings`` name the sources, settings and tools that differ. Where a source differs the bundle cannot come out the
    same, so that it is not made again and ``rebuilt_sha256`` is absent. ``parts`` name the members and the fields of
    the manifest that came out otherwise. ``unchecked`` names what the bundle says of a source that was not at hand, and
    was taken from the bundle.
    """

    bundle: str
    same: bool
    sha256: str
    rebuilt_sha256: str | None = None
    findings: tuple[Finding, ...] = ()
    parts: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class RebuildSources:
    """What a bundle is made again from, as it was named when it was made.

    Absent ``recipe`` and ``acceptance`` mean the bundle's own. Absent ``evaluation`` means that what the bundle says of
    it (hash, histograms of answers) is taken over. ``preprocessing`` and ``labels`` are the bundle's own too; where
    they are given they are compared with it.
    """

    model: Path
    profile: Profile
    metric: Metric
    calibration: Path | None = None
    evaluation: Path | None = None
    acceptance: Path | None = None
    recipe: Path | Recipe | None = None
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None


def rebuild(path: Path, sources: RebuildSources, *, now: datetime, held: Held = NOTHING_HELD) -> Difference:
    """Make the bundle of ``path`` again and compare. Sample sets that are ``held`` in memory are not read from paths.

    Raises:
        FileMissingError, BundleError: the bundle cannot be read, or a source is not there.
        RefusedError: all sources are the recorded ones, and the conversion is refused all the same.
    """
    bundle = open_bundle(path)
    findings = list(_source_findings(bundle, sources, held))
    tools = list(_tool_findings(bundle.manifest))
    if findings:
        return Difference(bundle=path.name, same=False, sha256=bundle.sha256, findings=(*findings, *tools))
    unchecked = sources.evaluation is None and bundle.manifest.lineage.evaluation_sha256 is not None
    made = convert(
        _request(bundle, sources),
        now=now,
        held={**held, **_own_examples(bundle)},
        recorded=bundle.manifest,
    )
    rebuilt = sha256_hex(made.bundle)
    same = rebuilt == bundle.sha256
    return Difference(
        bundle=path.name,
        same=same,
        sha256=bundle.sha256,
        rebuilt_sha256=rebuilt,
        findings=() if same else tuple(tools),
        parts=() if same else tuple(_parts(bundle.manifest, made.manifest)),
        unchecked=(_EVALUATION,) if unchecked else (),
    )


def describe_difference(found: Difference) -> str:
    """Return what was found as text."""
    if found.same:
        lines = [f"{found.bundle}: made again, the same to the byte", f"sha256 {found.sha256}"]
    elif found.rebuilt_sha256 is None:
        lines = [f"{found.bundle}: not made again, as it would be another bundle"]
    else:
        lines = [f"{found.bundle}: made again, and different", f"sha256 {found.sha256}, now {found.rebuilt_sha256}"]
    lines += [f"  {f.what} differs: recorded {f.recorded}, found {f.found}" for f in found.findings]
    lines += [f"  came out otherwise: {part}" for part in found.parts]
    lines += [f"  not checked, as it was not named: {what}" for what in found.unchecked]
    return "\n".join(lines)


def _source_findings(bundle: Bundle, sources: RebuildSources, held: Held) -> Iterator[Finding]:
    """Yield the sources and settings whose hashes are not the recorded ones."""
    manifest, lineage = bundle.manifest, bundle.manifest.lineage
    yield from _finding("the source model", lineage.source_sha256, source_sha256(sources.model))
    if sources.recipe is not None:
        yield from _finding("the recipe", lineage.recipe_sha256, _recipe_hash(sources.recipe))
    yield from _finding(
        "the calibration set",
        lineage.calibration_sha256,
        _set_hash(sources.calibration, manifest, held, sample_set_sha256),
    )
    if sources.evaluation is not None:
        found = _set_hash(sources.evaluation, manifest, held, sample_set_sha256)
        yield from _finding(_EVALUATION, lineage.evaluation_sha256, found)
    if sources.acceptance is not None:
        found = _set_hash(sources.acceptance, manifest, held, lambda samples: _acceptance_hash(samples, manifest))
        recorded = None if manifest.acceptance is None else manifest.acceptance.sha256
        yield from _finding("the set of acceptance examples", recorded, found)
    yield from _setting_findings(manifest, sources)


def _setting_findings(manifest: Manifest, sources: RebuildSources) -> Iterator[Finding]:
    yield from _finding("the profile", manifest.profile.compat_hash, compat_hash(sources.profile))
    yield from _finding("the profile's budgets", _budgets(manifest), _budgets(sources.profile))
    yield from _finding("the metric", manifest.metric, sources.metric.name)
    if sources.preprocessing is not None:
        recorded, found = (canonical_json(how).decode() for how in (manifest.preprocessing, sources.preprocessing))
        yield from _finding("the preprocessing", recorded, found)
    if sources.labels is not None:
        recorded, found = (", ".join(labels) for labels in (manifest.interface.labels, sources.labels))
        yield from _finding("the list of class names", recorded, found)


def _finding(what: str, recorded: str | None, found: str | None) -> Iterator[Finding]:
    if recorded != found:
        yield Finding(what=what, recorded=recorded or _NONE, found=found or _NONE)


def _set_hash(path: Path | None, manifest: Manifest, held: Held, digest: Callable[[SampleSet], str]) -> str | None:
    """Return the hash of a sample set, or why it has none: a damaged file differs from the one that was recorded."""
    if path is None:
        return None
    try:
        return digest(open_set(path, held, _input_names(manifest), manifest.interface.labels))
    except SampleError as error:
        return f"nothing that can be read: {error.message}"


def _acceptance_hash(samples: SampleSet, manifest: Manifest) -> str:
    return sha256_hex(acceptance_npz(samples, _input_names(manifest)))


def _recipe_hash(recipe: Path | Recipe) -> str:
    try:
        read = recipe if isinstance(recipe, Recipe) else read_recipe_file(recipe)
    except SettingError as error:
        return f"nothing that can be read: {error.message}"
    return _NONE if read is None else recipe_sha256(read)


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
    own = _OWN_EXAMPLES if manifest.acceptance is not None else None
    return ConversionRequest(
        model=sources.model,
        profile=sources.profile,
        name=manifest.name,
        version=manifest.version,
        task=manifest.task,
        metric=sources.metric,
        preprocessing=manifest.preprocessing,
        labels=manifest.interface.labels,
        recipe=_recipe_of(bundle),
        calibration=sources.calibration,
        evaluation=sources.evaluation,
        acceptance=sources.acceptance or own,
    )


def _own_examples(bundle: Bundle) -> Held:
    """Return the acceptance examples that a bundle carries, if any, in the place of a file."""
    manifest = bundle.manifest
    if manifest.acceptance is None:
        return {}
    examples = read_examples(bundle.read(ACCEPTANCE_PATH), manifest.interface, source=ACCEPTANCE_PATH)
    names = _input_names(manifest) if len(examples.inputs) > 1 else [ONLY_INPUT]
    return {_OWN_EXAMPLES: {**dict(zip(names, examples.inputs, strict=True)), LABELS: examples.labels}}


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


def _input_names(manifest: Manifest) -> list[str]:
    return [spec.name for spec in manifest.interface.inputs]


def _budgets(holder: Manifest | Profile) -> str:
    stated = {name: value for name, value in msgspec.to_builtins(holder.budgets).items() if value is not None}
    return ", ".join(f"{name} {value}" for name, value in sorted(stated.items()))
