# SPDX-License-Identifier: Apache-2.0
"""Models and answers: one engine a device, in the worker process or inside a simulation.

A plan is put in force in two steps: :meth:`Engine.prepare` loads and warms what is missing (slow, any thread), and
:meth:`Engine.switch` swaps it in between two requests. What answered before answers until the switch.
"""

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from device_agent.core.ledger import parted
from device_agent.core.serving import (
    Collected,
    LoadFailed,
    ModelFaulted,
    ModelRef,
    Report,
    Serving,
    ServingPlan,
    Verified,
)
from device_agent.inference_protocol import Status
from device_agent.worker.counts import ModelCounts, Role
from edgefleet.contracts.bundle import Bundle, open_bundle
from edgefleet.contracts.errors import BundleError, EdgeFleetError, SampleError
from edgefleet.contracts.messages import RunningRelease
from edgefleet.runtimes.answers import Answer, read_answer
from edgefleet.runtimes.loaded_model import LoadedModel
from edgefleet.runtimes.parity import check_parity, read_vectors
from edgefleet.runtimes.tensors import Floats

Array = npt.NDArray[Any]
#: Answers that feedback can still refer to.
REMEMBERED_ANSWERS = 4096
_CLASS_DIGITS = 9


class Reply(NamedTuple):
    """What one request gets; ``release`` names the model that answered, ``detail`` says why there is no answer."""

    status: Status
    request_id: int = 0
    top_class: int = -1
    confidence: float = 0.0
    release: str = ""
    label: str = ""
    detail: str = ""
    outputs: tuple[Floats, ...] = ()


@dataclass(frozen=True)
class Resident:
    """A loaded, warmed model."""

    model: LoadedModel
    release: RunningRelease

    @property
    def sha256(self) -> str:
        """The bundle's hash."""
        return self.release.bundle_sha256


class Prepared(NamedTuple):
    """A plan with its models loaded."""

    plan: ServingPlan
    primary: Resident | None
    companion: Resident | None


class _Given(NamedTuple):
    """An answer that feedback may come for."""

    release: RunningRelease
    role: Role
    predicted: int
    labels: tuple[str, ...]
    classes: int


class _Comparison(NamedTuple):
    """A live input that the companion shall see too."""

    raw: Sequence[Array]
    outputs: Sequence[Floats]
    answer: Answer


def load(ref: ModelRef, *, threads: int = 1) -> Resident:
    """Load and warm a bundle's model; the whole file's hash is checked.

    Raises:
        EdgeFleetError: the file is not the bundle, or its model does not load or run.
    """
    bundle = open_slot(ref)
    model = LoadedModel.from_bundle(bundle, threads=threads)
    inputs, _ = read_vectors(bundle)
    model.invoke([tensor[0] for tensor in inputs])
    return Resident(model, ref.release)


def open_slot(ref: ModelRef) -> Bundle:
    """Open a slot's bundle.

    Raises:
        EdgeFleetError: it is not a bundle, or not the one that the slot is named for.
    """
    bundle = open_bundle(Path(ref.path))
    if bundle.sha256 != ref.release.bundle_sha256:
        raise BundleError(
            f"the slot holds the bundle {bundle.sha256[:12]}…, expected {ref.release.bundle_sha256[:12]}…",
            hint="the disk changed the file; it is fetched again when it is ordered again",
        )
    return bundle


def verify(ref: ModelRef) -> Verified:
    """Prove that a model works by fresh inferences of its own parity vectors."""
    try:
        bundle = open_slot(ref)
        parity = check_parity(LoadedModel.from_bundle(bundle), bundle, "production")
    except EdgeFleetError as error:
        return Verified(
            bundle_sha256=ref.release.bundle_sha256, passed=False, cause=error.code, detail=error.message[:1000]
        )
    detail = f"{parity.samples} parity vectors, worst difference {parity.worst:g}, tolerance {parity.tolerance:g}"
    return Verified(
        bundle_sha256=ref.release.bundle_sha256, passed=parity.passed, cause="parity-production", detail=detail
    )


class Engine:
    """Answers requests by the plan in force and counts; safe to use from several threads.

    ``random`` draws the samples for paired comparison; ``nonce`` starts the request numbers, so that feedback for an
    answer of an earlier worker is not taken for one of this worker's.
    """

    def __init__(self, *, random: Callable[[], float], nonce: int, threads: int = 1) -> None:
        self._random = random
        self._threads = threads
        self._lock = threading.RLock()
        self._now = Prepared(ServingPlan(number=0), None, None)
        self._counts: dict[tuple[str, Role], ModelCounts] = {}
        self._given: OrderedDict[int, _Given] = OrderedDict()
        self._next_id = (nonce & 0xFFFFFFFF) << 32
        self._faults: deque[ModelFaulted] = deque()
        self._faulted: set[str] = set()
        self._pending: _Comparison | None = None

    @property
    def running(self) -> RunningRelease | None:
        """The release that answers."""
        primary = self._now.primary
        return primary.release if primary else None

    def prepare(self, plan: ServingPlan) -> Prepared | LoadFailed:
        """Load and warm the models of a plan that are not resident yet."""
        loaded: list[Resident | None] = []
        for ref in (plan.primary, plan.companion):
            try:
                loaded.append(None if ref is None else self._resident(ref))
            except EdgeFleetError as error:
                sha256 = ref.release.bundle_sha256 if ref else ""
                return LoadFailed(
                    number=plan.number, bundle_sha256=sha256, cause=error.code, detail=error.message[:1000]
                )
        return Prepared(plan, loaded[0], loaded[1])

    def switch(self, prepared: Prepared) -> Serving:
        """Put a prepared plan in force, between two requests."""
        with self._lock:
            self._now = prepared
            self._pending = None
            self._faulted.clear()
        return Serving(number=prepared.plan.number)

    def serve(self, plan: ServingPlan) -> Report:
        """Prepare and switch in one go."""
        prepared = self.prepare(plan)
        return prepared if isinstance(prepared, LoadFailed) else self.switch(prepared)

    def infer(self, raw: Sequence[Array]) -> Reply:
        """Answer one raw sample; :meth:`settle` runs the comparison that this may have left for later."""
        with self._lock:
            if self._now.primary is None:
                return Reply("no-model", detail="no model is installed, or none that works")
            if any(array.dtype.kind == "f" and not np.isfinite(array).all() for array in raw):
                return Reply("bad-input", detail="the input has NaN or infinite values")
            return self._answer(self._now.primary, self._now.plan.role, raw)

    def settle(self) -> None:
        """Let the companion see the last input, if it was drawn for comparison."""
        with self._lock:
            pending, self._pending = self._pending, None
            if pending is not None and self._now.companion is not None:
                self._compare(pending, self._now.companion)

    def feedback(self, request_id: int, label: str) -> Reply:
        """Count what an earlier answer should have been; ``label`` is a class number or a label's name."""
        with self._lock:
            given = self._given.get(request_id)
            if given is None:
                return Reply("unknown-request", detail=f"the request {request_id} is not known, or too long ago")
            actual = _class_number(label, given.labels, given.classes)
            if actual is None:
                return Reply("bad-input", detail=f"'{label[:100]}' is no class of the model")
            del self._given[request_id]
            self._count(given.release, given.role).labelled(actual, given.predicted)
            return Reply("ok", request_id, given.predicted)

    def info(self) -> Reply:
        """Say which release answers."""
        running = self.running
        return Reply("ok", release=_name(running)) if running else Reply("no-model", detail="no model is installed")

    def collect(self) -> Collected:
        """Hand over all counts since the last time."""
        with self._lock:
            counts, self._counts = self._counts, {}
            self._faulted.clear()
        return Collected(models=tuple(part for count in counts.values() for part in parted(count.window())))

    def take_faults(self) -> list[ModelFaulted]:
        """Return candidates' faults since the last call, one a candidate and collection."""
        with self._lock:
            faults = list(self._faults)
            self._faults.clear()
            return faults

    def _resident(self, ref: ModelRef) -> Resident:
        for resident in (self._now.primary, self._now.companion):
            if resident is not None and resident.sha256 == ref.release.bundle_sha256:
                return resident
        return load(ref, threads=self._threads)

    def _answer(self, resident: Resident, role: Role, raw: Sequence[Array]) -> Reply:
        started = time.perf_counter()
        try:
            outputs = resident.model.answer(raw)
        except SampleError as error:
            return Reply("bad-input", release=_name(resident.release), detail=error.message)
        except EdgeFleetError as error:
            return self._without_answer(resident, role, raw, "failed", error.message)
        answer = read_answer(outputs)
        if not answer.finite:
            return self._without_answer(resident, role, raw, "non-finite", "the model answered with NaN or infinity")
        seconds = time.perf_counter() - started
        self._count(resident.release, role).answered(answer.top, answer.confidence, seconds)
        self._draw_comparison(resident, raw, outputs, answer)
        return self._reply(resident, role, outputs, answer)

    def _without_answer(
        self, resident: Resident, role: Role, raw: Sequence[Array], kind: Literal["non-finite", "failed"], detail: str
    ) -> Reply:
        self._count(resident.release, role).refused(kind)
        if role == "trial":
            self._report(resident, kind, detail)
        fallback = self._now.companion if self._now.plan.companion_role == "fallback" else None
        if fallback is not None and resident is not fallback:
            return self._answer(fallback, "active", raw)
        return Reply("failed", release=_name(resident.release), detail=detail)

    def _reply(self, resident: Resident, role: Role, outputs: Sequence[Floats], answer: Answer) -> Reply:
        labels = resident.model.manifest.interface.labels
        self._next_id += 1
        self._given[self._next_id] = _Given(resident.release, role, answer.top, labels, outputs[0].size)
        if len(self._given) > REMEMBERED_ANSWERS:
            self._given.popitem(last=False)
        label = labels[answer.top] if answer.top < len(labels) else ""
        return Reply(
            "ok",
            self._next_id,
            answer.top,
            answer.confidence,
            _name(resident.release),
            label,
            outputs=tuple(outputs),
        )

    def _draw_comparison(
        self, resident: Resident, raw: Sequence[Array], outputs: Sequence[Floats], answer: Answer
    ) -> None:
        plan = self._now.plan
        if resident is self._now.primary and self._now.companion is not None and self._random() < plan.share:
            self._pending = _Comparison(raw, outputs, answer)

    def _compare(self, pending: _Comparison, companion: Resident) -> None:
        """Run the companion on a live input. The candidate's window takes the count, whichever of both it is."""
        shadow = self._now.plan.companion_role == "shadow"
        started = time.perf_counter()
        try:
            outputs = companion.model.answer(pending.raw)
        except EdgeFleetError as error:
            if shadow:
                self._count(companion.release, "shadow").refused("failed")
                self._report(companion, "failed", error.message)
            return
        answer = read_answer(outputs)
        if shadow and not answer.finite:
            self._count(companion.release, "shadow").refused("non-finite")
            self._report(companion, "non-finite", "the model answered with NaN or infinity")
            return
        candidate = companion if shadow else self._now.primary
        if candidate is None or not answer.finite:
            return
        counts = self._count(candidate.release, "shadow" if shadow else self._now.plan.role)
        if shadow:
            counts.answered(answer.top, answer.confidence, time.perf_counter() - started)
        counts.paired(disagreed=_disagree(companion.model, pending, outputs, answer))

    def _count(self, release: RunningRelease, role: Role) -> ModelCounts:
        key = (release.bundle_sha256, role)
        if key not in self._counts:
            self._counts[key] = ModelCounts(release, role)
        return self._counts[key]

    def _report(self, resident: Resident, kind: Literal["non-finite", "failed"], detail: str) -> None:
        if resident.sha256 not in self._faulted:
            self._faulted.add(resident.sha256)
            self._faults.append(ModelFaulted(bundle_sha256=resident.sha256, kind=kind, detail=detail[:1000]))


def _disagree(model: LoadedModel, pending: _Comparison, outputs: Sequence[Floats], answer: Answer) -> bool:
    """Tell whether two answers to one input differ: in the top-1 class, or (no classes) beyond the tolerance."""
    if model.manifest.task == "classification":
        return answer.top != pending.answer.top
    tolerance = model.manifest.tolerances.production
    for spec, mine, other in zip(model.manifest.interface.outputs, outputs, pending.outputs, strict=False):
        limit = tolerance * (spec.scale or 1.0) if model.manifest.tolerances.unit == "lsb" else tolerance
        if mine.shape != other.shape or float(np.abs(mine - other).max(initial=0.0)) > limit:
            return True
    return len(outputs) != len(pending.outputs)


def _class_number(label: str, labels: tuple[str, ...], classes: int) -> int | None:
    if label in labels:
        return labels.index(label)
    if label.isascii() and label.isdigit() and len(label) <= _CLASS_DIGITS and int(label) < (len(labels) or classes):
        return int(label)
    return None


def _name(release: RunningRelease) -> str:
    return f"{release.name} {release.version}"
