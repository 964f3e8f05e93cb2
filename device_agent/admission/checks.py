# SPDX-License-Identifier: Apache-2.0
"""The checks of admission, in order; the first that says no ends it.

1. The slot's file is the bundle that was ordered, made for this profile, with the interface that applications need.
2. The model is no larger than its budget, and its answers no more than a frame can carry; neither its parity vectors
   nor its own answers to them have a NaN.
3. It loads with reference kernels, answers an input that is asked again as before, and meets its parity vectors to the
   bit (its reference tolerance).
4. It loads with production kernels and meets them within the tolerance measured at conversion.
5. It scores the pinned minimum on the pinned acceptance examples, without a NaN.
6. It keeps no memory from one inference to the next, takes no more than its budget, and fits beside the other models
   of its set.
7. Its p99 latency keeps the budget, without the time for which others had the processor; where that could be their
   doing all the same, a busy board postpones.
"""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from device_agent.core.evidence.leak import LEAST_BYTES, LEAST_PARTS, Point, kept_bytes
from device_agent.core.serving import AdmissionRequest, AdmissionVerdict
from device_agent.inference_protocol import unanswerable
from device_agent.process_bounds import peak_rss_bytes, private_bytes
from device_agent.worker.residents import load, open_slot
from edgefleet.contracts.bundle import Bundle
from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.interface import differences
from edgefleet.runtimes.examples import score_acceptance
from edgefleet.runtimes.litert import Kernels
from edgefleet.runtimes.loaded_model import LoadedModel
from edgefleet.runtimes.metrics import percentile
from edgefleet.runtimes.parity import check_parity, read_vectors

_LATENCY_WINDOW_S = 2.0
#: Memory that was free before hides a small leak for a while: so many times the runs have to show none.
_LEAK_TIMES = 80
#: The least that a heap gives out; what grows by less an inference is not kept by inferences.
_LEAST_EACH_BYTES = 32
#: Of its processor's time a model that seems to leak may use so much until that is certain.
_LEAK_WINDOW_S = 20.0
#: Others disturb a measurement if they had the processor for more than this share of it.
_DISTURBED = 0.1
#: What the runtime itself takes when it loads its first models and their vectors, beside their activations.
_RUNTIME_BYTES = 64 << 20


class _RefusedError(Exception):
    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


def admit(request: AdmissionRequest, *, busy: Callable[[], bool] | None = None, alone: bool = True) -> AdmissionVerdict:
    """Run all checks; ``busy`` tells whether other work disturbs the latency (by default from the load average).

    Where others work in this process, too (not ``alone``), its memory says nothing of the model.
    """
    started, before_bytes = time.perf_counter(), peak_rss_bytes()
    try:
        bundle = open_slot(request.model)
        _check_facts(request, bundle)
        _check_interface(request, bundle)
        _check_size(bundle)
        _check_answer(bundle)
        _check_parity(bundle, "reference")
        model = _check_parity(bundle, "production")
        _check_acceptance(request, model, bundle)
        if alone:
            _check_leak(model, bundle, request.latency_runs)
            _check_memory(bundle, before_bytes)
        _check_together(request)
        latency = _latency(model, bundle, request.latency_runs)
    except _RefusedError as refusal:
        return _verdict("refused", refusal.cause, str(refusal), started)
    except MemoryError:
        return _verdict("refused", "out-of-memory", "the model needs more memory than a check may take", started)
    except EdgeFleetError as error:
        return _verdict("refused", error.code, error.message, started)
    budget_us = bundle.manifest.budgets.latency_p99_us
    if budget_us is not None and latency.p99_us > budget_us:
        is_busy = busy() if busy else latency.disturbed or _is_busy()
        kind, cause = ("postponed", "busy") if is_busy else ("refused", "latency-budget")
        detail = f"p99 latency {latency.p99_us} us, the budget is {budget_us} us"
        return _verdict(kind, cause, detail, started, latency.p99_us)
    return _verdict("passed", "all-checks", "", started, latency.p99_us)


def _check_interface(request: AdmissionRequest, bundle: Bundle) -> None:
    """Refuse a release that does not offer what an application on this device was built for."""
    for declaration in request.declarations:
        wrong = differences(declaration.interface, bundle.manifest.interface)
        if wrong:
            raise _RefusedError("interface", f"'{declaration.application}': {'; '.join(wrong)}")


def _check_facts(request: AdmissionRequest, bundle: Bundle) -> None:
    manifest, release = bundle.manifest, request.model.release
    if (manifest.name, manifest.version) != (release.name, release.version):
        raise _RefusedError(
            "mismatch",
            f"the bundle is {manifest.name} {manifest.version}, ordered was {release.name} {release.version}",
        )
    if manifest.profile.id != request.profile:
        raise _RefusedError(
            "wrong-profile",
            f"the bundle is for the profile '{manifest.profile.id}', this device is '{request.profile}'",
        )
    if manifest.profile.compat_hash != request.compat_hash:
        raise _RefusedError("mismatch", "the bundle's compat_hash is not the one in the signed release")


def _check_size(bundle: Bundle) -> None:
    budget = bundle.manifest.budgets.model_bytes
    size = next(member.size_bytes for member in bundle.manifest.members if member.path == bundle.manifest.model)
    if budget is not None and size > budget:
        raise _RefusedError("model-size", f"the model has {size} bytes, the budget is {budget}")


def _check_answer(bundle: Bundle) -> None:
    """Refuse a model whose answers applications could never be given."""
    if why := unanswerable([output.shape for output in bundle.manifest.interface.outputs]):
        raise _RefusedError("answer-size", f"the model answers with {why}")


def _check_finite(model: LoadedModel, bundle: Bundle) -> None:
    """Refuse NaN and infinity, also where the vectors expect them: whoever made those saw them and signed."""
    inputs, expected = read_vectors(bundle)
    samples = bundle.manifest.parity.samples
    bad = sum(not _finite([tensor[sample] for tensor in expected]) for sample in range(samples))
    if bad:
        raise _RefusedError("non-finite", f"{bad} of {samples} parity vectors expect NaN or infinity")
    bad = sum(not _finite(model.invoke([tensor[sample] for tensor in inputs])) for sample in range(samples))
    if bad:
        raise _RefusedError("non-finite", f"{bad} of {samples} parity vectors are answered with NaN or infinity")


def _check_memoryless(model: LoadedModel, bundle: Bundle) -> None:
    """Refuse a model whose answers depend on what it was asked before: several ask it, some of them to compare."""
    inputs, _ = read_vectors(bundle)
    samples = [[tensor[sample] for tensor in inputs] for sample in range(bundle.manifest.parity.samples)]
    first, *_, again = [model.invoke(sample) for sample in (*samples, samples[0])]
    if any(not np.array_equal(one, other, equal_nan=True) for one, other in zip(first, again, strict=True)):
        raise _RefusedError(
            "stateful",
            "asked the same input again, it answers otherwise: it keeps state between inferences, or draws lots",
        )


def _finite(outputs: Sequence[npt.NDArray[Any]]) -> bool:
    return all(bool(np.isfinite(output).all()) for output in outputs)


def _check_parity(bundle: Bundle, kernels: Kernels) -> LoadedModel:
    model = LoadedModel.from_bundle(bundle, kernels=kernels)
    if kernels == "reference":
        _check_memoryless(model, bundle)
    _check_finite(model, bundle)
    parity = check_parity(model, bundle, kernels)
    if not parity.passed:
        raise _RefusedError(
            f"parity-{kernels}",
            f"with {kernels} kernels the outputs differ from the parity vectors by {parity.worst:g}, "
            f"the tolerance is {parity.tolerance:g}; {parity.top1_changed} clear top-1 classes changed",
        )
    return model


def _check_acceptance(request: AdmissionRequest, model: LoadedModel, bundle: Bundle) -> None:
    if request.acceptance_sha256 is None:
        return
    carried = bundle.manifest.acceptance
    if carried is None or carried.sha256 != request.acceptance_sha256:
        raise _RefusedError("acceptance-examples", "the bundle does not carry the acceptance examples that are pinned")
    score = score_acceptance(model, bundle)
    if score.non_finite:
        raise _RefusedError("non-finite", f"{score.non_finite} of {score.samples} answers are NaN or infinite")
    if score.value < request.acceptance_minimum:
        raise _RefusedError(
            "acceptance",
            f"scores {score.value:.4f} on the acceptance examples, the minimum is {request.acceptance_minimum}",
        )


def _check_leak(model: LoadedModel, bundle: Bundle, runs: int) -> None:
    """Run one input until memory stands still, after enough inferences, or has grown by enough to be certain."""
    arrays = [tensor[0] for tensor in read_vectors(bundle)[0]]
    points, grew, started = [Point(0, private_bytes())], False, time.process_time()
    while True:
        begun, passed_s = points[-1].inferences, time.process_time() - started
        if passed_s > (_LEAK_WINDOW_S if grew else _LATENCY_WINDOW_S) or (begun >= _LEAK_TIMES * runs and not grew):
            return
        if len(points) <= LEAST_PARTS:
            done = _run(model, arrays, runs, started + passed_s + _LATENCY_WINDOW_S / LEAST_PARTS)
        else:
            done = _run(model, arrays, begun, started + (_LEAK_WINDOW_S if grew else _LATENCY_WINDOW_S))
        points.append(Point(begun + done, private_bytes()))
        grew = points[-1].held_bytes - points[-2].held_bytes >= _LEAST_EACH_BYTES * done
        kept = kept_bytes(points[-LEAST_PARTS - 1 :])
        if grew and kept >= LEAST_BYTES:
            raise _RefusedError("memory-leak", f"{begun + done} inferences of one input kept {kept} bytes")


def _run(model: LoadedModel, arrays: Sequence[npt.NDArray[Any]], runs: int, until: float) -> int:
    """Run one input so many times, or until this process has used so many processor seconds; return how many times."""
    for done in range(1, runs + 1):
        model.invoke(arrays)
        if time.process_time() > until:
            return done
    return runs


def _check_memory(bundle: Bundle, before_bytes: int) -> None:
    budgets = bundle.manifest.budgets
    taken = peak_rss_bytes() - before_bytes
    if budgets.arena_bytes is not None and taken > budgets.arena_bytes + (budgets.model_bytes or 0) + _RUNTIME_BYTES:
        raise _RefusedError(
            "memory-budget", f"the checks took {taken} bytes, the budget is {budgets.arena_bytes} for activations"
        )


def _check_together(request: AdmissionRequest) -> None:
    """Load the other models of the set as well: what fits alone may not fit beside them."""
    together = []
    for ref in request.beside:
        try:
            together.append(load(ref))
        except (EdgeFleetError, MemoryError) as error:
            raise _RefusedError("memory-together", f"beside it '{ref.release.name}' does not load: {error}") from error


class _Latency(NamedTuple):
    """What inferences took of the processor's time, and whether others had much of it meanwhile."""

    p99_us: int
    disturbed: bool


def _latency(model: LoadedModel, bundle: Bundle, runs: int) -> _Latency:
    inputs, _ = read_vectors(bundle)
    own_s: list[float] = []
    passed_s: list[float] = []
    end = time.perf_counter() + _LATENCY_WINDOW_S
    while len(own_s) < runs and (len(own_s) < 5 or time.perf_counter() < end):
        sample = len(own_s) % bundle.manifest.parity.samples
        arrays = [tensor[sample] for tensor in inputs]
        started, ran = time.perf_counter(), time.process_time()
        model.invoke(arrays)
        passed_s.append(time.perf_counter() - started)
        own_s.append(min(time.process_time() - ran, passed_s[-1]))
    disturbed = sum(own_s) < (1.0 - _DISTURBED) * sum(passed_s)
    return _Latency(round(percentile(own_s, 0.99) * 1e6), disturbed)


def _is_busy() -> bool:
    return os.getloadavg()[0] > (os.cpu_count() or 1)


def _verdict(kind: str, cause: str, detail: str, started: float, p99_us: int = 0) -> AdmissionVerdict:
    return AdmissionVerdict(
        kind=kind,  # type: ignore[arg-type]  # one of the three words above
        cause=cause,
        detail=detail[:1000],
        seconds=time.perf_counter() - started,
        latency_p99_us=p99_us,
        peak_rss_bytes=peak_rss_bytes(),
    )


class InProcessAdmission:
    """The admission port without a child: for simulations, where many devices share one process (not ``alone``)."""

    def __init__(self, busy: Callable[[], bool] | None = None, *, alone: bool = True) -> None:
        self._busy = busy
        self._alone = alone

    def admit(self, request: AdmissionRequest) -> AdmissionVerdict:
        """Run the checks here."""
        return admit(request, busy=self._busy, alone=self._alone)
