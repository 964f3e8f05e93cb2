# SPDX-License-Identifier: Apache-2.0
"""The checks of admission, in order; the first that says no ends it.

1. The slot's file is the bundle that was ordered, made for this profile.
2. The model loads with reference kernels and meets its parity vectors to the bit (its reference tolerance).
3. It loads with production kernels and meets them within the tolerance measured at conversion.
4. It scores the pinned minimum on the pinned acceptance examples, without a NaN.
5. Its p99 latency keeps the budget; a busy board postpones, for it cannot tell.
"""

import os
import time
from collections.abc import Callable

from device_agent.core.serving import AdmissionRequest, AdmissionVerdict
from device_agent.process_bounds import peak_rss_bytes
from device_agent.worker.engine import open_slot
from edgefleet.contracts.bundle import Bundle
from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.runtimes.examples import score_acceptance
from edgefleet.runtimes.litert import Kernels
from edgefleet.runtimes.loaded_model import LoadedModel
from edgefleet.runtimes.metrics import percentile
from edgefleet.runtimes.parity import check_parity, read_vectors

_LATENCY_WINDOW_S = 2.0


class _RefusedError(Exception):
    def __init__(self, cause: str, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause


def admit(request: AdmissionRequest, *, busy: Callable[[], bool] | None = None) -> AdmissionVerdict:
    """Run all checks; ``busy`` tells whether other work disturbs the latency (by default from the load average)."""
    started = time.perf_counter()
    try:
        bundle = open_slot(request.model)
        _check_facts(request, bundle)
        _check_parity(bundle, "reference")
        model = _check_parity(bundle, "production")
        _check_acceptance(request, model, bundle)
        p99_us = _latency_p99_us(model, bundle, request.latency_runs)
    except _RefusedError as refusal:
        return _verdict("refused", refusal.cause, str(refusal), started)
    except EdgeFleetError as error:
        return _verdict("refused", error.code, error.message, started)
    budget_us = bundle.manifest.budgets.latency_p99_us
    if budget_us is not None and p99_us > budget_us:
        kind, cause = ("postponed", "busy") if (busy or _is_busy)() else ("refused", "latency-budget")
        detail = f"p99 latency {p99_us} us, the budget is {budget_us} us"
        return _verdict(kind, cause, detail, started, p99_us)
    return _verdict("passed", "all-checks", "", started, p99_us)


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


def _check_parity(bundle: Bundle, kernels: Kernels) -> LoadedModel:
    model = LoadedModel.from_bundle(bundle, kernels=kernels)
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


def _latency_p99_us(model: LoadedModel, bundle: Bundle, runs: int) -> int:
    inputs, _ = read_vectors(bundle)
    seconds: list[float] = []
    end = time.perf_counter() + _LATENCY_WINDOW_S
    while len(seconds) < runs and (len(seconds) < 5 or time.perf_counter() < end):
        sample = len(seconds) % bundle.manifest.parity.samples
        arrays = [tensor[sample] for tensor in inputs]
        started = time.perf_counter()
        model.invoke(arrays)
        seconds.append(time.perf_counter() - started)
    return round(percentile(seconds, 0.99) * 1e6)


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
    """The admission port without a child: for simulations, where many devices share one process."""

    def __init__(self, busy: Callable[[], bool] | None = None) -> None:
        self._busy = busy

    def admit(self, request: AdmissionRequest) -> AdmissionVerdict:
        """Run the checks here."""
        return admit(request, busy=self._busy)
