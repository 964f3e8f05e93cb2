# SPDX-License-Identifier: Apache-2.0
"""The converter for Python programs: what ``edgefleet convert``, ``verify`` and ``inspect`` do, as functions.

    import converter

    made = converter.convert(
        "person.tflite", profile="raspberry-pi-4", name="person", version="1.0.0", calibration="pictures/"
    )
    made.write("dist")

Nothing is written but by :meth:`Converted.write`. Whatever can be expected to go wrong raises an
:class:`~edgefleet.contracts.errors.EdgeFleetError`: ``InputError`` for an argument that cannot be used,
``RefusedError`` where a check says no; each has a ``message`` and a ``hint``.

Each source model is loaded and run once in a process of its own first, for a damaged one can kill the interpreter. The
rest happens in the calling process; the command line does it in a fork.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, get_args

import msgspec
import numpy.typing as npt

from converter.adapters.attestation.documents import check_provenance, documents
from converter.adapters.attestation.dsse import load_signer
from converter.adapters.containment import in_sentences
from converter.adapters.output_files import write_together
from converter.adapters.samples.in_memory import HeldSamples
from converter.adapters.settings import read_labels, read_preprocessing, read_recipe_file
from converter.adapters.user_code.metrics import load_metric, own_metric, recorded_metric
from converter.core.detection import parse_roles
from converter.core.recipe import Recipe
from converter.core.reports.units import parse_bytes, parse_share, parse_us
from converter.core.request import ConversionRequest
from converter.core.scoring import Metric
from converter.core.search.budgets import SearchBudgets
from converter.inspection import Inspection, inspect_file
from converter.pipeline import convert as run_conversion
from converter.rebuilding import Difference, RebuildSources
from converter.rebuilding import rebuild as run_rebuild
from converter.verification import Check, Verification, verify_bundle
from edgefleet.contracts.bundle import open_bundle
from edgefleet.contracts.canonical import canonical_json
from edgefleet.contracts.errors import InputError
from edgefleet.contracts.evidence import ConversionEvidence
from edgefleet.contracts.manifest import Manifest, Preprocessing, Task
from edgefleet.contracts.names import bundle_file_name
from edgefleet.contracts.profile import Profile
from firmware_profiles import load_profile

AnyPath = str | os.PathLike[str]
Samples = AnyPath | HeldSamples
Scoring = Callable[[npt.NDArray[Any], npt.NDArray[Any]], float]
T = TypeVar("T", int, float)


@dataclass(frozen=True)
class Converted:
    """What a conversion made.

    ``bundle`` are the bundle's bytes, ``manifest`` its description, ``evidence`` what was measured; ``recipe`` made the
    model, or is None where a quantized model was taken as it is. ``documents`` are the files that stand beside the
    bundle, by name: evidence, recipe, bill of materials, provenance, pictures and tables.
    """

    bundle: bytes
    manifest: Manifest
    evidence: ConversionEvidence
    recipe: Recipe | None
    documents: Mapping[str, bytes]

    @property
    def sha256(self) -> str:
        """The SHA-256 of the bundle, 64 hexadecimal digits."""
        return self.evidence.bundle_sha256

    @property
    def file_name(self) -> str:
        """``name-version-profile.bundle``."""
        return bundle_file_name(self.manifest.name, self.manifest.version, self.manifest.profile.id)

    def write(self, folder: AnyPath) -> Path:
        """Write the bundle and its documents into a folder, all or none, and return the bundle's path.

        Raises:
            StorageError: the folder cannot be written, or the disk is full; no file is left behind.
        """
        place = Path(folder)
        files = {place / name: data for name, data in self.documents.items()}
        write_together({**files, place / self.file_name: self.bundle})
        return place / self.file_name


def convert(
    model: AnyPath,
    *,
    profile: Profile | AnyPath,
    name: str,
    version: str,
    calibration: Samples | None = None,
    evaluation: Samples | None = None,
    acceptance: Samples | None = None,
    labels: AnyPath | Sequence[str] = (),
    preprocessing: Preprocessing | AnyPath | None = None,
    recipe: Recipe | AnyPath | None = None,
    task: str = "classification",
    outputs: str | None = None,
    metric: str | Scoring | None = None,
    max_accuracy_drop: float | str | None = None,
    max_flash: int | str | None = None,
    max_arena: int | str | None = None,
    max_latency: float | str | None = None,
    search_limit: float | str = 60.0,
    explain: bool = False,
    signing_key: AnyPath | None = None,
    progress: Callable[[str], None] | None = None,
    now: datetime | None = None,
) -> Converted:
    """Convert a model for one board: quantize, check, evaluate, pack.

    Args:
        model: A ``.tflite`` file, float32 or quantized already, a Keras file, a SavedModel folder, or
            ``module:function`` that returns a PyTorch module.
        profile: The board: an id, the path of a profile file, or a profile.
        name: The product's name: a-z, 0-9, - and _.
        version: The release's version, MAJOR.MINOR.PATCH.
        calibration: Typical inputs. A path of a folder of pictures or clips with ``labels.csv``, of an ``.npz``,
            ``.npy`` or ``.csv``, or ``module:function``; or samples in memory: an array whose first axis counts
            samples, a pair of that and labels, a mapping of one array an input by name (labels under ``y``), an
            iterable of single samples (arrays, pairs of an array and its label, mappings), or a function that returns
            one. The same samples in any of these forms have the same hash and make the same bundle.
        evaluation: Labelled samples that neither training nor calibration has seen, in the same forms.
        acceptance: The product's labelled examples, in the same forms; the bundle carries a copy.
        labels: Class names in the order of the model's answers, or the path of a file with one a line.
        preprocessing: How raw samples become inputs; none: samples are in model units.
        recipe: What to quantize, and how; none: what the board prefers.
        task: ``classification``, ``regression``, ``anomaly`` or ``detection``.
        outputs: For detection, where the model does not tell: what each output is, in order, separated by commas.
        metric: The name of one of the task's metrics, ``module:function``, or a function of the de-quantized outputs
            (samples, …) and the labels that returns a number.
        max_accuracy_drop: Search for the smallest model whose metric drops by no more: a share (0.005) or ``"0.5pt"``.
        max_flash: Search for a model of no more bytes: a number or a text such as ``"250kB"``.
        max_arena: The same for the arena of a microcontroller, in bytes.
        max_latency: The same for an inference as predicted for the board: microseconds, or a text such as ``"10ms"``.
        search_limit: About how long a search may take: seconds, or a text such as ``"60s"``.
        explain: Compare with the float model layer by layer.
        signing_key: The path of a private key (PEM) that signs the provenance.
        progress: Is told each candidate of a search in a line of text.
        now: Dates the evidence; none: this moment.

    Raises:
        InputError: an argument or file cannot be used.
        RefusedError: the model, the samples, the board or the budgets do not fit each other; the subclass says which.
        MissingExtraError: the model is of a kind whose reader is not installed.
    """
    started = now or datetime.now(UTC)
    signer = None if signing_key is None else load_signer(Path(signing_key))
    named, held = _sample_sets({"calibration": calibration, "evaluation": evaluation, "acceptance": acceptance})
    chosen = _task(task)
    request = ConversionRequest(
        model=Path(model),
        profile=_profile(profile),
        name=name,
        version=version,
        task=chosen,
        metric=_metric(metric, chosen),
        preprocessing=_preprocessing(preprocessing),
        labels=_labels(labels),
        roles=parse_roles(outputs),
        recipe=recipe if isinstance(recipe, Recipe) else read_recipe_file(_path(recipe)),
        limits=SearchBudgets(
            drop=_limit(max_accuracy_drop, parse_share),
            model_bytes=_limit(max_flash, parse_bytes),
            arena_bytes=_limit(max_arena, parse_bytes),
            latency_us=_limit(max_latency, parse_us, unit="us"),
        ),
        search_limit_s=_seconds(search_limit),
        explain=explain,
        **named,
    )
    with in_sentences():
        done = run_conversion(request, now=started, say=progress or _be_silent, held=held)
    began = started.isoformat(timespec="seconds")
    file_name = Path(bundle_file_name(name, version, request.profile.id))
    beside = documents(done.bundle, done.manifest, done.evidence, started_at=began, signer=signer, recipe=done.recipe)
    beside = {".evidence.json": canonical_json(done.evidence), **beside}
    files = {file_name.with_suffix(suffix).name: data for suffix, data in beside.items()}
    return Converted(done.bundle, done.manifest, done.evidence, done.recipe, files)


def rebuild(
    bundle: AnyPath,
    *,
    source: AnyPath,
    profile: Profile | AnyPath | None = None,
    calibration: Samples | None = None,
    evaluation: Samples | None = None,
    acceptance: Samples | None = None,
    metric: str | Scoring | None = None,
    recipe: Recipe | AnyPath | None = None,
    preprocessing: Preprocessing | AnyPath | None = None,
    labels: AnyPath | Sequence[str] | None = None,
    now: datetime | None = None,
) -> Difference:
    """Make a bundle again from its sources and say what differs, if anything does.

    Args:
        bundle: The path of the bundle.
        source: The model that it was made from, as :func:`convert` takes it.
        profile: The board; none: the profile with the bundle's own id.
        calibration: The samples that it was calibrated on, as :func:`convert` takes them.
        evaluation: The evaluation samples; none: what the bundle says of them is taken over, and not checked.
        acceptance: The acceptance examples; none: the bundle's own copy.
        metric: The metric; none: the bundle's own, unless that is its maker's code.
        recipe: A recipe to compare with the bundle's own, which is followed.
        preprocessing: A preprocessing to compare with the bundle's own, which is followed.
        labels: Class names to compare with the bundle's own, which are followed.
        now: Dates nothing that is kept; none: this moment.

    Raises:
        InputError: an argument or file cannot be used.
        BundleError: it is no sound bundle.
        RefusedError: all sources are the recorded ones, and the conversion is refused all the same.
    """
    path = Path(bundle)
    manifest = open_bundle(path).manifest
    named, held = _sample_sets({"calibration": calibration, "evaluation": evaluation, "acceptance": acceptance})
    sources = RebuildSources(
        model=Path(source),
        profile=_profile(profile or manifest.profile.id),
        metric=own_metric(_name_of(metric), metric)
        if callable(metric)
        else recorded_metric(metric, manifest, source=path.name),
        recipe=recipe if isinstance(recipe, Recipe) else _path(recipe),
        preprocessing=None if preprocessing is None else _preprocessing(preprocessing),
        labels=None if labels is None else _labels(labels),
        **named,
    )
    several = {place: list(samples) if isinstance(samples, Iterator) else samples for place, samples in held.items()}
    with in_sentences():
        return run_rebuild(path, sources, now=now or datetime.now(UTC), held=several)


def verify(
    bundle: AnyPath, *, profile: Profile | AnyPath | None = None, provenance_key: AnyPath | None = None
) -> Verification:
    """Check a bundle as a device would: format and hashes, board, parity vectors, acceptance; and who signed it.

    Args:
        bundle: The path of the bundle.
        profile: The board that it is to run on; none: not checked.
        provenance_key: The path of the public key that the provenance beside the bundle must be signed with; none:
            not checked.

    Raises:
        InputError: a file is missing or cannot be used.
        RefusedError: the first check that says no; the subclass says which.
    """
    path = Path(bundle)
    board = None if profile is None else _profile(profile)
    with in_sentences():
        done = verify_bundle(path, board)
    if provenance_key is None:
        return done
    signed = Check(name="provenance", result=check_provenance(open_bundle(path), Path(provenance_key)))
    return msgspec.structs.replace(done, checks=(*done.checks, signed))


def inspect(file: AnyPath) -> Inspection:
    """Return the facts of a bundle, or of a model as :func:`convert` takes it: operators, tensors, sizes, manifest.

    Raises:
        FileMissingError: there is no such file.
        RefusedError: it is damaged, or no model.
    """
    with in_sentences():
        return inspect_file(Path(file))


def _sample_sets(given: Mapping[str, Samples | None]) -> tuple[dict[str, Path | None], dict[Path, HeldSamples]]:
    """Part the sets into paths by name, and what is in memory by the path that stands for it."""
    named: dict[str, Path | None] = {}
    held: dict[Path, HeldSamples] = {}
    for name, samples in given.items():
        if samples is None or isinstance(samples, str | os.PathLike):
            named[name] = _path(samples)
        else:
            named[name] = Path(f"{name} (in memory)")
            held[Path(f"{name} (in memory)")] = samples
    return named, held


def _path(given: AnyPath | None) -> Path | None:
    return None if given is None else Path(given)


def _profile(given: Profile | AnyPath) -> Profile:
    return given if isinstance(given, Profile) else load_profile(os.fspath(given))


def _preprocessing(given: Preprocessing | AnyPath | None) -> Preprocessing:
    return given if isinstance(given, Preprocessing) else read_preprocessing(_path(given))


def _labels(given: AnyPath | Sequence[str]) -> tuple[str, ...]:
    return read_labels(Path(given)) if isinstance(given, str | os.PathLike) else tuple(given)


def _metric(given: str | Scoring | None, task: Task) -> Metric:
    return own_metric(_name_of(given), given) if callable(given) else load_metric(given, task)


def _name_of(function: object) -> str:
    """Return ``module:function``, under which a bundle keeps a metric."""
    kind = type(function)
    return ":".join(getattr(function, name, getattr(kind, name, "")) for name in ("__module__", "__qualname__"))


def _task(text: str) -> Task:
    for known in get_args(Task):
        if text == known:
            task: Task = known
            return task
    raise InputError(f"--task is '{text}'", hint="choose classification, regression, anomaly or detection")


def _limit(given: float | str | None, parse: Callable[[str], T], unit: str = "") -> T | None:
    """Read a limit: a text as the command line takes it, or a number, which has the ``unit``."""
    if given is None or isinstance(given, str):
        return None if given is None else parse(given)
    return parse(f"{given:.12f}".rstrip("0").rstrip(".") + unit)


def _seconds(given: float | str) -> float:
    return parse_us(given) / 1e6 if isinstance(given, str) else given


def _be_silent(_: str) -> None:
    """Nobody wants to know."""
