# SPDX-License-Identifier: Apache-2.0
"""Check a bundle as a device would, and use one: verify, evaluate, run."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from converter.adapters.containment import contained
from converter.adapters.flatbuffers.reading import read_facts
from converter.adapters.running.execution import predict, run_all
from converter.adapters.samples.sets import class_numbers, model_inputs, open_samples
from converter.core.detection import read_as
from converter.core.scoring import Metric, check_labels, score
from edgefleet.contracts.bundle import Bundle, open_bundle
from edgefleet.contracts.errors import (
    BundleError,
    IncompatibleError,
    ModelFailedError,
    SampleError,
    UnsupportedModelError,
)
from edgefleet.contracts.evidence import Score
from edgefleet.contracts.manifest import Fact, Manifest
from edgefleet.contracts.profile import Profile, compat_hash
from edgefleet.runtimes.examples import score_acceptance
from edgefleet.runtimes.litert import Kernels
from edgefleet.runtimes.loaded_model import LoadedModel
from edgefleet.runtimes.oracle import open_oracle
from edgefleet.runtimes.parity import check_parity, read_vectors
from edgefleet.runtimes.preprocessing import preprocess
from edgefleet.runtimes.probe import probe_model
from edgefleet.runtimes.tensors import dequantize, to_model_inputs

Array = npt.NDArray[Any]
#: Another processor's production kernels may decide a few close examples the other way.
_ACCEPTANCE_SLACK = 0.02
#: Answers below this are nothing that a tolerance would have to tell apart.
_SMALLEST_ANSWER = 1e-3


_RUNTIMES = {"litert": "the production kernels", "tflm": "TFLM", "tflite-runtime": "tflite-runtime"}


class Check(Fact, frozen=True, kw_only=True):
    """One check that a bundle passed."""

    name: str
    result: str


class Verification(Fact, frozen=True, kw_only=True):
    """A bundle that passed all checks."""

    bundle: str
    sha256: str
    name: str
    version: str
    profile: str
    checks: tuple[Check, ...]


_NOT_RUN = Check(name="execution", result="compiled-not-run: nothing here runs the model as the board will")


class Run(NamedTuple):
    """Outputs of a batch: ``raw`` tells whether they are the model's tensors as they are or real values."""

    outputs: list[Array]
    raw: bool


def verify_bundle(path: Path, profile: Profile | None) -> Verification:
    """Check format and hashes, board, model, both parity stages and acceptance examples.

    Raises:
        FileMissingError, BundleError, IncompatibleError, UnsupportedModelError, ModelFailedError, SampleError: the
            first check that says no.
    """
    bundle = open_bundle(path)
    manifest = bundle.manifest
    checks = [Check(name="format", result=f"{len(manifest.members)} members, each as the manifest says")]
    if profile is not None:
        check_compatible(manifest, profile)
        checks.append(Check(name="board", result=f"made for what '{profile.id}' is"))
    check_consistent(bundle)
    checks += _run_checks(bundle) if manifest.execution == "proved" else [_NOT_RUN]
    return Verification(
        bundle=path.name,
        sha256=bundle.sha256,
        name=manifest.name,
        version=manifest.version,
        profile=manifest.profile.id,
        checks=tuple(checks),
    )


def _run_checks(bundle: Bundle) -> Iterator[Check]:
    """Check what can be seen by running the model: as the board does, and with LiteRT's reference kernels besides."""
    manifest = bundle.manifest
    board = _on_board(bundle)
    if manifest.runtime.kind == "tflm":  # the reference of its own vectors
        yield _check_parity(bundle, board, "reference", _RUNTIMES["tflm"])
    else:
        reference = LoadedModel.from_bundle(bundle, kernels="reference")
        yield _check_parity(bundle, reference, "reference", "the reference kernels")
        yield _check_parity(bundle, board, "production", _RUNTIMES[manifest.runtime.kind])
    if manifest.acceptance is not None:
        yield _check_acceptance(bundle, board)


def check_compatible(manifest: Manifest, profile: Profile) -> None:
    """Refuse a bundle that was made for another board.

    Raises:
        IncompatibleError: the boards' compat hashes differ.
    """
    made_for, wanted = manifest.profile.compat_hash, compat_hash(profile)
    if made_for != wanted and manifest.profile.id == profile.id:
        raise IncompatibleError(
            f"the bundle {manifest.name} {manifest.version} was made for another '{profile.id}': "
            f"its compat_hash was {made_for[:12]}…, and is {wanted[:12]}…",
            hint="convert the model again for the profile as it is now",
        )
    if made_for != wanted:
        raise IncompatibleError(
            f"the bundle {manifest.name} {manifest.version} is for profile '{manifest.profile.id}', "
            f"not for '{profile.id}'",
            hint=f"use the release's bundle for '{profile.id}', or convert the model for it",
        )


def check_consistent(bundle: Bundle) -> None:
    """Refuse a manifest whose tolerances let every answer pass, or that belie its model; nobody need have signed it.

    Raises:
        BundleError: the first thing that contradicts another.
    """
    manifest = bundle.manifest
    tolerances, dtypes = manifest.tolerances, sorted({spec.dtype for spec in manifest.interface.outputs})
    integers = all(np.dtype(dtype).kind in "iu" for dtype in dtypes)
    if integers != (tolerances.unit == "lsb"):
        raise _contradiction(bundle, f"tolerances in {tolerances.unit} for outputs of {', '.join(dtypes)}")
    for name, value in (("reference", tolerances.reference), ("production", tolerances.production)):
        most = _largest_tolerance(bundle, name)
        if not 0.0 <= value <= most:  # NaN is in no range
            raise _contradiction(bundle, f"a {name} tolerance of {value:g}, expected from 0 to {most:g}")
    if manifest.execution == "proved":
        _check_precision(bundle)


def _largest_tolerance(bundle: Bundle, kernels: str) -> float:
    """Return the tolerance beyond which any answer would pass: none for integers of the reference, else see below.

    For production kernels that is half of an integer's range, or four times the largest answer that is expected
    (twice it, rounded up to a power of two as tolerances are). A detector's rows may come in another order there, and
    lie as far apart as its answers span.
    """
    manifest = bundle.manifest
    further = 3.0 if manifest.interface.roles else 1.0
    limits = [np.iinfo(spec.dtype) for spec in manifest.interface.outputs if np.dtype(spec.dtype).kind in "iu"]
    if manifest.tolerances.unit == "lsb":
        half = max((float(limit.max) + 1.0 for limit in limits), default=0.0)
        return 0.0 if kernels == "reference" else half * further
    _, expected = read_vectors(bundle)
    largest = max(float(np.abs(output.astype(np.float64)).max(initial=0.0)) for output in expected)
    return 4.0 * max(largest, _SMALLEST_ANSWER) * further


def _check_precision(bundle: Bundle) -> None:
    model = bundle.read(bundle.manifest.model)
    probe_model(model, kernels="reference")
    found = read_facts(model).precision()
    if found != bundle.manifest.precision:
        raise _contradiction(bundle, f"the precision {bundle.manifest.precision}, and a model that computes in {found}")


def _contradiction(bundle: Bundle, what: str) -> BundleError:
    return BundleError(
        f"'{bundle.path.name}' contradicts itself: its manifest has {what}",
        hint="do not install it; convert the model again",
    )


def evaluate_bundle(path: Path, samples_path: Path, metric: Metric) -> Score:
    """Score a bundle's model on labelled samples.

    Raises:
        FileMissingError, BundleError, SampleError, ModelFailedError: what cannot be read or does not fit.
    """
    bundle = open_bundle(path)
    manifest = bundle.manifest
    samples = open_samples(samples_path, [s.name for s in manifest.interface.inputs], manifest.interface.labels)
    labels = class_numbers(samples)
    classes = int(np.prod(manifest.interface.outputs[0].shape))
    roles = manifest.interface.roles
    check_labels(labels, classes, task=manifest.task, source=samples.source, roles=roles)

    def answers() -> Array:
        inputs = model_inputs(samples, range(len(samples)), manifest.preprocessing, manifest.interface.inputs)
        return predict(_probed(bundle).interpreter, inputs, manifest.task, roles)

    return score(metric, contained(answers), labels, read_as(manifest.task, roles))


def run_bundle(path: Path, batch: Array) -> Run:
    """Run a bundle's model on a batch, first axis samples.

    A batch of the input's own integer type is fed as it is and the outputs come back as they are. Anything else is
    raw samples: they are preprocessed and quantized, and the outputs come back as real values.

    Raises:
        FileMissingError, BundleError, SampleError, ModelFailedError: what cannot be read or does not fit.
    """
    bundle = open_bundle(path)
    manifest = bundle.manifest
    if len(manifest.interface.inputs) != 1:
        raise SampleError(
            f"the model has {len(manifest.interface.inputs)} inputs, and an .npy file holds one",
            hint="use 'edgefleet evaluate' with an .npz of one array an input",
        )
    raw = batch.dtype == np.dtype(manifest.interface.inputs[0].dtype) and batch.dtype.kind != "f"
    inputs = [_as_tensor(sample, manifest) if raw else _prepared(sample, manifest) for sample in batch]
    outputs = contained(lambda: run_all(_probed(bundle).interpreter, inputs, manifest.interface.roles))
    if raw:
        return Run(outputs, raw=True)
    return Run([dequantize(o, s) for o, s in zip(outputs, manifest.interface.outputs, strict=True)], raw=False)


def _probed(bundle: Bundle) -> LoadedModel:
    """Load a model that may be hostile: where it ends its interpreter, it ends another process."""
    if bundle.manifest.execution == "proved":
        probe_model(bundle.read(bundle.manifest.model), kernels="reference")
    return _on_board(bundle)


def _on_board(bundle: Bundle) -> LoadedModel:
    """Load the model into the runtime that the board has.

    Raises:
        UnsupportedModelError: nothing here runs it as the board will, or the runtime refuses it.
        MissingExtraError: the runtime is not installed.
    """
    manifest = bundle.manifest
    if manifest.execution != "proved":
        raise UnsupportedModelError(
            f"the bundle {manifest.name} {manifest.version} is compiled-not-run: nothing here runs its model",
            hint="use the model from before the NPU's compiler, or run it on the board",
        )
    if manifest.runtime.kind == "litert":
        return LoadedModel.from_bundle(bundle, kernels="production")
    return LoadedModel(manifest, open_oracle(bundle.read(manifest.model), kind=manifest.runtime.kind))


def _check_parity(bundle: Bundle, model: LoadedModel, kernels: Kernels, where: str) -> Check:
    report = check_parity(model, bundle, kernels)
    unit = "LSB" if bundle.manifest.tolerances.unit == "lsb" else "absolute"
    said = f"{report.samples} vectors, worst {report.worst:g} {unit}, allowed {report.tolerance:g}"
    if not report.passed:
        raise ModelFailedError(
            f"the model does not answer its parity vectors with {where}: {said}, "
            f"{report.top1_changed} clear top-1 changed",
            hint="do not install it; convert the model again, and report it if this repeats",
        )
    return Check(name=f"parity, {where.removeprefix('the ')}", result=said)


def _check_acceptance(bundle: Bundle, model: LoadedModel) -> Check:
    accepted = bundle.manifest.acceptance
    assert accepted is not None  # noqa: S101  # the caller looked
    got = score_acceptance(model, bundle)
    if got.non_finite or abs(got.value - accepted.value) > _ACCEPTANCE_SLACK:
        raise ModelFailedError(
            f"the model scores {got.value:.4f} on its acceptance examples with {got.non_finite} answers not finite; "
            f"the manifest says {accepted.value:.4f}",
            hint="do not install it; convert the model again",
        )
    return Check(name="acceptance", result=f"{accepted.metric} {got.value:.4f} on {got.samples} examples")


def _as_tensor(sample: Array, manifest: Manifest) -> list[Array]:
    spec = manifest.interface.inputs[0]
    for shaped in (sample, sample[np.newaxis]):
        if shaped.shape == spec.shape:
            return [shaped]
    raise SampleError(
        f"a sample has shape {list(sample.shape)}, the model expects {list(spec.shape)}",
        hint="store a batch whose first axis counts samples",
    )


def _prepared(sample: Array, manifest: Manifest) -> list[Array]:
    return to_model_inputs([preprocess(sample, manifest.preprocessing)], manifest.interface.inputs)
