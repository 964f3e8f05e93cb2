# SPDX-License-Identifier: Apache-2.0
"""Bringing a candidate from an order to its admission: what runs on the executor, and what its outcome means."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from device_agent.core.life.lifecycle import DEADLINES_S, PREPARING, Trigger
from device_agent.core.life.record import DeviceRecord
from device_agent.core.life.release_set import Member, ReleaseSet
from device_agent.core.orders.release_orders import Order, TargetFile
from device_agent.core.reliance import needed
from device_agent.core.schedule import Backoff
from device_agent.core.serving import SLOT_DAMAGE, AdmissionRequest, AdmissionVerdict, ModelRef
from device_agent.errors import CorruptDownloadError
from device_agent.ports import Ports
from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.interface import Declaration
from edgefleet.contracts.messages import DeviceStatus, EventKind

CORRUPT_LIMIT = 3
_RETRY = Backoff(first_s=1.0, cap_s=300.0)
#: Between two looks at whether applications still hold the update off.
_HELD_S = 2.0


_LOG = logging.getLogger("edgefleet.agent")


class StepFailedError(EdgeFleetError):
    """A step of the installation met a defect of the agent."""

    code = "step-failed"


@dataclass(frozen=True)
class Outcome:
    """What the life cycle makes of a finished step, and what the server is told; ``about`` is the bundle's hash."""

    trigger: Trigger | None = None
    events: tuple[tuple[EventKind, str, str], ...] = ()
    quarantine: bool = False
    about: str = ""


class Installation:
    """At most one step at a time; the agent asks :meth:`advance` on each tick."""

    def __init__(
        self, ports: Ports, profile: str, applications: tuple[Declaration, ...], wake: Callable[[], None]
    ) -> None:
        self._ports = ports
        self._profile = profile
        self._applications = applications
        self._wake = wake
        self._job: Future[Path | AdmissionVerdict | None] | None = None
        self._cancelled = threading.Event()
        self._about = ""
        self._targets: dict[str, TargetFile] = {}
        self._stored: set[str] = set()
        self._admitted: set[str] = set()
        self._failures = 0
        self._corrupt = 0
        self._postponed = 0
        self._postponed_since = 0.0
        self._told: set[str] = set()
        self._retry_at = 0.0
        self._given_up = False

    def may_start(self, now: float) -> bool:
        """Tell whether a new order may be taken up now."""
        return self._job is None and not self._given_up and now >= self._retry_at

    def forget_failures(self) -> None:
        """A new order starts with a clean sheet."""
        self._failures = self._corrupt = self._postponed = 0
        self._told.clear()
        self._retry_at = 0.0
        self._given_up = False

    def cancel(self) -> None:
        """Let a running step come to nothing."""
        self._cancelled.set()
        self._job = None
        self._forget()

    def _forget(self) -> None:
        self._stored.clear()
        self._admitted.clear()

    def next_at(self, status: DeviceStatus) -> float | None:
        """Return when :meth:`advance` has something to do that no finished step announces."""
        return self._retry_at if status in PREPARING and self._job is None else None

    def advance(self, status: DeviceStatus, record: DeviceRecord, order: Order | None, now: float) -> Outcome | None:
        """Take up a finished step or start the next one; None: nothing to decide now."""
        if status not in PREPARING or not record.candidate:
            return None
        if self._job is not None:
            return self._finished(status, now) if self._job.done() else None
        if now < self._retry_at:
            return None
        if status == "staged":
            if self._ports.holds.reason(self._ports.clock.wall()):
                self._retry_at = now + _HELD_S
                return None
            return Outcome("admission-begun")
        if status == "admission":
            return self._admit_next(record)
        if status == "verified":
            return Outcome("bundle-staged")
        return self._fetch_next(record.trying, order)

    def _admit_next(self, record: DeviceRecord) -> Outcome | None:
        """Check the members that have to be tried, one after another."""
        waiting = [member for member in record.trying if member.sha256 not in self._admitted]
        if not waiting:
            self._forget()
            return Outcome("admission-passed")
        self._submit(waiting[0].sha256, self._ports.admission.admit, self._request(waiting[0], record))
        return None

    def _request(self, member: Member, record: DeviceRecord) -> AdmissionRequest:
        pin, name, now = member.policy.acceptance, member.release.name, self._ports.clock.wall()
        return AdmissionRequest(
            model=self._ref(member),
            beside=tuple(self._ref(other) for other in record.candidate if other != member),
            profile=self._profile,
            compat_hash=member.compat_hash,
            acceptance_sha256=pin.sha256 if pin else None,
            acceptance_minimum=pin.minimum if pin else 0.0,
            declarations=needed(record.reliances, self._applications, name, now),
        )

    def _ref(self, member: Member) -> ModelRef:
        return ModelRef(path=str(self._ports.slots.path(member.sha256)), release=member.release)

    def _fetch_next(self, trying: ReleaseSet, order: Order | None) -> Outcome | None:
        """Bring the bundles that have to be tried into their slots, one after another."""
        if order is not None:
            self._targets = {one.target.sha256: one.target for one in order.wanted}
        waiting = [member.sha256 for member in trying if member.sha256 not in self._stored]
        if not waiting:
            return Outcome("bundle-complete")
        if waiting[0] not in self._targets:
            return Outcome("bundle-unavailable")
        self._submit(waiting[0], self._fetch, self._targets[waiting[0]])
        return None

    def _submit(self, sha256: str, work: Callable[..., Path | AdmissionVerdict | None], *arguments: object) -> None:
        self._about = sha256
        self._cancelled = threading.Event()
        self._job = self._ports.executor.submit(work, *arguments)
        self._job.add_done_callback(lambda _: self._wake())

    def _fetch(self, target: TargetFile) -> Path | None:
        """Fetch a bundle into its slot, unless it is there intact (None)."""
        if self._ports.slots.intact(target.sha256):
            return None
        fetched = self._ports.repositories.fetch(target, self._cancelled.is_set)
        return self._ports.slots.adopt(fetched, target.sha256)

    def _finished(self, status: DeviceStatus, now: float) -> Outcome | None:
        assert self._job is not None  # noqa: S101  advance() looked
        done, self._job = self._job, None
        try:
            result = done.result()
        except EdgeFleetError as error:
            return self._failed(error, now)
        except Exception:  # noqa: BLE001  a defect in a step must never end inference
            _LOG.exception("a step of the installation failed")
            defect = StepFailedError(f"the step '{status}' failed unexpectedly", hint="see the agent's log")
            return self._failed(defect, now)
        if isinstance(result, AdmissionVerdict):
            return self._judged(result, now)
        self._failures = 0
        self._stored.add(self._about)
        how = "downloaded" if result else "already-here"
        event: tuple[EventKind, str, str] = ("verified", how, "both repositories and the bundle's hash agree")
        return Outcome(None, (event,), about=self._about)

    def _failed(self, error: EdgeFleetError, now: float) -> Outcome:
        self._failures += 1
        self._retry_at = now + _RETRY.delay_s(self._failures, self._ports.random())
        if isinstance(error, CorruptDownloadError):
            self._corrupt += 1
            event: tuple[EventKind, str, str] = ("download-corrupt", "hash-mismatch", error.message)
            if self._corrupt < CORRUPT_LIMIT:
                return Outcome(None, (event,), about=self._about)
            self._given_up = True
            given_up = f"{self._corrupt} corrupt downloads; tried again at the next order"
            self._forget()
            return Outcome("bundle-unavailable", (event, ("download-failed", "corrupt", given_up)), about=self._about)
        events = (("download-failed", error.code, error.message),) if error.code not in self._told else ()
        self._told.add(error.code)
        return Outcome(None, events, about=self._about)  # type: ignore[arg-type]

    def _judged(self, verdict: AdmissionVerdict, now: float) -> Outcome:
        detail = verdict.detail or f"p99 latency {verdict.latency_p99_us} us, {verdict.seconds:.2f} s"
        if verdict.kind == "passed":
            self._admitted.add(self._about)
            return Outcome(None, (("admission-passed", verdict.cause, detail),), about=self._about)
        if verdict.kind == "postponed":
            return self._postpone(verdict, detail, now)
        self._forget()
        if verdict.cause in SLOT_DAMAGE and not self._ports.slots.intact(self._about):
            return self._slot_damaged(detail)
        event: tuple[EventKind, str, str] = ("admission-refused", verdict.cause, detail)
        return Outcome("admission-refused", (event,), quarantine=True, about=self._about)

    def _postpone(self, verdict: AdmissionVerdict, detail: str, now: float) -> Outcome:
        """Ask again later; given back at last, but never held against the bundle: the board could not tell."""
        self._postponed_since = self._postponed_since if self._postponed else now
        self._postponed += 1
        if now - self._postponed_since < DEADLINES_S["staged"]:
            self._retry_at = now + _RETRY.delay_s(self._postponed, self._ports.random())
            return Outcome("admission-postponed")
        self._forget()
        self._given_up = True
        given_up = f"postponed {self._postponed} times ({verdict.cause}: {detail}); tried again at the next order"
        return Outcome("deadline-passed", (("update-refused", "deadline", given_up),), about=self._about)

    def _slot_damaged(self, detail: str) -> Outcome:
        """The disk changed a bundle that was whole: it is fetched again, and no fault of the bundle's."""
        self._corrupt += 1
        self._given_up = self._corrupt >= CORRUPT_LIMIT
        return Outcome("admission-refused", (("download-corrupt", "slot-damaged", detail),), about=self._about)
