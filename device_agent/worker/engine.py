# SPDX-License-Identifier: Apache-2.0
"""Models and answers: one engine a device, in the worker process or inside a simulation.

A plan is put in force in two steps: :meth:`Engine.prepare` loads and warms what is missing (slow, any thread), and
:meth:`Engine.switch` swaps it in between two requests. What answered before answers until the switch; for a plan with
``swap = "cold"`` :meth:`Engine.let_go` comes first, and :attr:`Engine.holding` says for which names requests wait.
"""

import itertools
import logging
import threading
from collections.abc import Callable, Sequence
from time import perf_counter, thread_time
from typing import Any

import numpy.typing as npt

from device_agent.core.serving import (
    Collected,
    LoadFailed,
    ModelFaulted,
    ModelRef,
    Report,
    Serving,
    ServingPlan,
)
from device_agent.worker.accelerator import Accelerator
from device_agent.worker.counts import NOTES, Refusal
from device_agent.worker.late_labels import LateLabels
from device_agent.worker.mark import AT_WORK, Mark, new_mark, write_mark
from device_agent.worker.places import Comparison, Place, Prepared, refs_of, serving
from device_agent.worker.places import Reply as Reply
from device_agent.worker.residents import Resident, load
from device_agent.worker.residents import open_slot as open_slot
from device_agent.worker.residents import verify as verify
from device_agent.worker.tally import Tally
from device_agent.worker.unsure import UnsureInputs
from edgefleet.contracts.errors import EdgeFleetError, SampleError
from edgefleet.contracts.messages import RunningRelease
from edgefleet.runtimes.answers import Answer

Array = npt.NDArray[Any]
_LOG = logging.getLogger("edgefleet.worker")


class Engine:
    """Answers requests by the plan in force and counts; safe to use from several threads.

    ``random`` draws the samples for paired comparison; ``nonce`` starts the request numbers, so that feedback for an
    answer of an earlier worker is not taken for one of this worker's. ``mark`` says which bundle is loaded or run just
    now, for the case that the process does not live to tell.
    """

    def __init__(
        self,
        *,
        random: Callable[[], float],
        nonce: int,
        threads: int = 1,
        mark: Mark | None = None,
        accelerator: Accelerator | None = None,
    ) -> None:
        self.accelerator = accelerator or Accelerator()
        self._mark = mark or new_mark()
        self._marked: Resident | None = None
        self._random = random
        self._threads = threads
        self._lock = threading.RLock()
        self._now = Prepared(ServingPlan(number=0), {})
        self._only: Place | None = None
        self._before = self._now.plan
        self.holding: frozenset[str] = frozenset()
        self._tally = Tally()
        self._late = LateLabels()
        self._ids = itertools.count(((nonce & 0xFFFFFFFF) << 32) + 1)
        self._later = threading.local()
        self.unsure = UnsureInputs(random)

    @property
    def running(self) -> tuple[RunningRelease, ...]:
        """The releases that answer, by name."""
        return tuple(place.primary.release for place in self._now.places.values())

    def prepare(self, plan: ServingPlan) -> Prepared | LoadFailed:
        """Load and warm the models of a plan that are not resident yet."""
        places: dict[str, Place] = {}
        for planned in plan.models:
            loaded: list[Resident | None] = []
            for ref in (planned.primary, planned.companion):
                try:
                    loaded.append(None if ref is None else self._resident(ref))
                except EdgeFleetError as error:
                    sha256 = ref.release.bundle_sha256 if ref else ""
                    return LoadFailed(
                        number=plan.number, bundle_sha256=sha256, cause=error.code, detail=error.message[:1000]
                    )
            assert loaded[0] is not None  # noqa: S101  a plan names a primary
            counts = self._tally.of(loaded[0], planned.role)
            places[planned.primary.release.name] = Place(planned, loaded[0], loaded[1], counts)
        return Prepared(plan, places)

    def switch(self, prepared: Prepared) -> Serving:
        """Put a prepared plan in force, between two requests."""
        with self._lock:
            self._now = prepared
            self._only = next(iter(prepared.places.values())) if len(prepared.places) == 1 else None
            self.holding = frozenset()
            self._tally.put_in_force((place.counts for place in prepared.places.values()), prepared.plan.labelled)
        return serving(prepared)

    @property
    def several(self) -> bool:
        """Tell whether there is more than one name."""
        return self._only is None

    def hold(self, plan: ServingPlan) -> None:
        """Let requests wait whose models a cold plan will take away, before :meth:`let_go`."""
        with self._lock:
            names = {planned.primary.release.name for planned in plan.models} | set(self._now.places)
            self.holding |= frozenset(names - set(self._kept(plan)))

    def _kept(self, plan: ServingPlan) -> dict[str, Place]:
        needed = {ref.release.bundle_sha256 for planned in plan.models for ref in refs_of(planned)}
        return {
            name: place
            for name, place in self._now.places.items()
            if all(ref.release.bundle_sha256 in needed for ref in refs_of(place.planned))
        }

    def let_go(self, plan: ServingPlan) -> None:
        """Let go of the models that a plan does not need, before those that it needs are loaded."""
        self.hold(plan)
        with self._lock:
            self._before = self._now.plan
            kept = self._kept(plan)
            self._now = Prepared(self._before, kept)
            self._only = next(iter(kept.values())) if len(self._names()) == len(kept) == 1 else None
            self._marked = None

    def prepare_cold(self, plan: ServingPlan) -> tuple[Prepared | LoadFailed, Prepared | None]:
        """Load a plan after :meth:`let_go`; where a model of it does not load, what answered before is loaded again."""
        prepared = self.prepare(plan)
        if isinstance(prepared, Prepared):
            return prepared, prepared
        back = self.prepare(self._before)
        return prepared, back if isinstance(back, Prepared) else Prepared(self._before, self._now.places)

    def serve(self, plan: ServingPlan) -> Report:
        """Prepare and switch in one go."""
        if plan.swap == "cold":
            self.let_go(plan)
            outcome, then = self.prepare_cold(plan)
            if then is not None:
                self.switch(then)
            return outcome if isinstance(outcome, LoadFailed) else Serving(number=plan.number)
        prepared = self.prepare(plan)
        return prepared if isinstance(prepared, LoadFailed) else self.switch(prepared)

    def infer(self, raw: Sequence[Array], model: str = "", place: Place | None = None) -> Reply:
        """Answer one raw sample by the model of a name (empty: the only one), or by that of a given place.

        :meth:`settle`, called by the same thread, runs the comparison that this may have left for later.
        """
        if place is None:
            place = self._now.places.get(model) if model else self._only
            if place is None:
                return self._no_place(model)
        started = perf_counter()
        _, resident, companion, counts = place
        if resident is not self._marked:
            self._use(resident)
        mark = self._mark
        mark[AT_WORK] = 1
        try:
            kept, answer = resident.ask(raw)
        except SampleError as error:
            return Reply("bad-input", release=resident.name, detail=error.message)
        except EdgeFleetError as error:
            return self._without_answer(place, raw, "failed", error.message)
        finally:
            mark[AT_WORK] = 0
        top, confidence, finite = answer
        if not finite:
            return self._without_answer(place, raw, "non-finite", "the model answered with NaN or infinity")
        number = next(self._ids)
        notes = counts.notes
        seconds = perf_counter() - started
        notes.append((number, top, confidence, seconds))
        if confidence < self.unsure.below:
            self.unsure.offer(resident.release, raw, confidence)
        if companion is not None or len(notes) >= NOTES:
            self._look_closer(Comparison(place, raw, kept, Answer(*answer), number, seconds))
        labels = resident.labels
        label = labels[top] if top < len(labels) else ""
        return Reply("ok", number, top, confidence, resident.name, label, "", kept, resident)

    def infer_safely(self, raw: Sequence[Array], model: str) -> Reply:
        """Answer as :meth:`infer` does; what one application sends must not end the worker of all."""
        try:
            return self.infer(raw, model)
        except Exception:  # noqa: BLE001  see above
            _LOG.exception("a request met a defect")
            return Reply("failed", detail="the request met a defect of the agent; see its log")

    def name_of(self, model: str) -> str:
        """Return the name that a request means: empty is the only one, where there is one."""
        if model:
            return model
        names = self._names()
        return next(iter(names)) if len(names) == 1 else ""

    def settle(self) -> None:
        """Let the companion see this thread's last input, if it was drawn for comparison; no defect ends the worker."""
        pending: Comparison | None = getattr(self._later, "comparison", None)
        if pending is None:
            return
        self._later.comparison = None
        place = pending.place
        if place.companion is not None and self._now.places.get(place.primary.release.name) is place:
            try:
                self._compare(pending, place.companion)
            except Exception:  # noqa: BLE001  the application has its answer already, and others wait for theirs
                _LOG.exception("a comparison met a defect")

    def feedback(self, request_id: int, label: str, release: str = "", predicted: int = -1) -> Reply:
        """Count what an earlier answer should have been; ``label`` is a class number or a label's name.

        Of an answer that is not remembered, ``release`` (name and version) and ``predicted`` say whose it was.
        """
        reply = self._tally.feedback(request_id, label)
        if reply.status != "unknown-request" or not release:
            return reply
        counts = self._late.counts_of(release, self._now, self._tally)
        if counts is None:
            return Reply(
                "unknown-request", detail=f"no release '{release[:100]}' answered on this device, or it is gone"
            )
        return self._tally.late_feedback(request_id, label, counts, predicted)

    def at_work(self, model: str) -> str:
        """Return the bundle that runs for a name just now; empty where none does."""
        place = self._now.places.get(model)
        return place.at_work if place else ""

    def info(self, model: str = "") -> Reply:
        """Say which release answers for a name (empty: the only one)."""
        place = self._now.places.get(model) if model else self._only
        return self._no_place(model) if place is None else Reply("ok", release=place.primary.name)

    def resident(self, model: str = "") -> Resident | None:
        """Return the model that answers for a name (empty: the only one), None if there is none."""
        place = self._now.places.get(model) if model else self._only
        return place.primary if place else None

    def collect(self) -> Collected:
        """Hand over all counts since the last time."""
        return self._tally.collect()

    def take_faults(self) -> list[ModelFaulted]:
        """Return candidates' faults since the last call, one a candidate and collection."""
        return self._tally.take_faults()

    def _names(self) -> set[str]:
        return set(self._now.places) | self.holding

    def _no_place(self, model: str) -> Reply:
        known = sorted(self._names())
        if not known:
            return Reply("no-model", detail="no model is installed, or none that works")
        names = ", ".join(f"'{name}'" for name in known)
        if self.name_of(model) in self.holding:
            return Reply("no-model", detail="the model is being loaded")
        if model:
            return Reply("no-model", detail=f"no model '{model[:100]}' is installed, there is {names}")
        return Reply("bad-input", detail=f"the request names no model, there is {names}")

    def _resident(self, ref: ModelRef) -> Resident:
        for place in self._now.places.values():
            for resident in (place.primary, place.companion):
                if resident is not None and resident.sha256 == ref.release.bundle_sha256:
                    return resident
        self._marked = None
        write_mark(self._mark, ref.release.bundle_sha256)
        self._mark[AT_WORK] = 1
        try:
            return load(ref, threads=self._threads, accelerator=self.accelerator)
        finally:
            self._mark[AT_WORK] = 0

    def _use(self, resident: Resident) -> None:
        self._marked = resident
        write_mark(self._mark, resident.sha256)

    def _look_closer(self, given: Comparison) -> None:
        """Sort what was counted, and keep a drawn input for the companion."""
        place = given.place
        self._tally.settle(place.counts)
        if place.companion is not None and self._random() < place.planned.share:
            # its memory may be the next request's as soon as this one is answered
            self._later.comparison = given._replace(raw=[array.copy() for array in given.raw])

    def _without_answer(self, place: Place, raw: Sequence[Array], kind: Refusal, detail: str) -> Reply:
        self._tally.refused(place.counts, kind, detail, fault=place.counts.role == "trial")
        fallback = place.fallback
        if fallback is not None:
            counts = self._tally.of(fallback, "active")
            return self.infer(raw, place=Place(place.planned, fallback, None, counts))
        return Reply("failed", release=place.primary.name, detail=detail)

    def _compare(self, pending: Comparison, companion: Resident) -> None:
        """Run the companion on a live input. The candidate's window takes the count, whichever of both it is."""
        place, tally = pending.place, self._tally
        shadow = tally.of(companion, "shadow") if place.planned.companion_role == "shadow" else None
        started, worked = perf_counter(), thread_time()
        self._use(companion)
        self._mark[AT_WORK] = 1
        try:
            kept, reading = companion.ask(pending.raw)
        except EdgeFleetError as error:
            if shadow:
                tally.refused(shadow, "failed", error.message, fault=True)
            return
        finally:
            self._mark[AT_WORK] = 0
        answer = Answer(*reading)
        if not answer.finite:
            if shadow:
                tally.refused(shadow, "non-finite", "the model answered with NaN or infinity", fault=True)
            return
        own_s, seconds = thread_time() - worked, perf_counter() - started
        its, mine = (answer, seconds), (pending.answer, pending.seconds)
        tally.compared(shadow or place.counts, disagreed=pending.disagrees(companion, kept, answer))
        if shadow:
            tally.shadowed(shadow, its)
            tally.paired(pending.number, companion, its, mine, own_s=min(own_s, seconds))
        elif place.role == "trial":
            tally.paired(pending.number, place.primary, mine, its, own_s=pending.seconds)
