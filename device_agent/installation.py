# SPDX-License-Identifier: Apache-2.0
"""Bringing a candidate from an order to its admission: what runs on the executor, and what its outcome means."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from device_agent.core.lifecycle import PREPARING, Trigger
from device_agent.core.orders import Order, TargetFile
from device_agent.core.record import DeviceRecord
from device_agent.core.schedule import Backoff
from device_agent.core.serving import AdmissionRequest, AdmissionVerdict, ModelRef
from device_agent.errors import CorruptDownloadError
from device_agent.ports import Ports
from edgefleet.contracts.errors import EdgeFleetError, StorageError
from edgefleet.contracts.messages import DeviceStatus, EventKind

CORRUPT_LIMIT = 3
POSTPONED_LIMIT = 5
_RETRY = Backoff(first_s=1.0, cap_s=300.0)


_LOG = logging.getLogger("edgefleet.agent")


class StepFailedError(EdgeFleetError):
    """A step of the installation met a defect of the agent."""

    code = "step-failed"


@dataclass(frozen=True)
class Outcome:
    """What the life cycle makes of a finished step, and what the server is told."""

    trigger: Trigger | None = None
    events: tuple[tuple[EventKind, str, str], ...] = ()
    quarantine: bool = False


class Installation:
    """At most one step at a time; the agent asks :meth:`advance` on each tick."""

    def __init__(self, ports: Ports, profile: str, wake: Callable[[], None]) -> None:
        self._ports = ports
        self._profile = profile
        self._wake = wake
        self._job: Future[Path | AdmissionVerdict | None] | None = None
        self._cancelled = threading.Event()
        self._target: TargetFile | None = None
        self._fetched: Path | None = None
        self._failures = 0
        self._corrupt = 0
        self._postponed = 0
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
        self._fetched = None

    def next_at(self, status: DeviceStatus) -> float | None:
        """Return when :meth:`advance` has something to do that no finished step announces."""
        return self._retry_at if status in PREPARING and self._job is None else None

    def advance(self, status: DeviceStatus, record: DeviceRecord, order: Order | None, now: float) -> Outcome | None:
        """Take up a finished step or start the next one; None: nothing to decide now."""
        if status not in PREPARING or record.candidate is None:
            return None
        if self._job is not None:
            return self._finished(status, now) if self._job.done() else None
        if now < self._retry_at:
            return None
        if status == "staged":
            return Outcome("admission-begun")
        if status == "admission":
            self._submit(self._ports.admission.admit, _admission(record, self._profile, self._ports))
            return None
        return self._fetch_or_adopt(status, record.candidate.bundle_sha256, order)

    def _fetch_or_adopt(self, status: DeviceStatus, sha256: str, order: Order | None) -> Outcome | None:
        if order is not None and order.target is not None and order.target.sha256 == sha256:
            self._target = order.target
        if self._target is None or self._target.sha256 != sha256:
            return Outcome("bundle-unavailable" if status == "downloading" else "bundle-refused")
        if status == "downloading":
            self._submit(self._fetch, self._target)
        elif self._fetched is None:
            return Outcome("bundle-staged")
        else:
            self._submit(self._ports.slots.adopt, self._fetched, sha256)
        return None

    def _submit(self, work: Callable[..., Path | AdmissionVerdict | None], *arguments: object) -> None:
        self._cancelled = threading.Event()
        self._job = self._ports.executor.submit(work, *arguments)
        self._job.add_done_callback(lambda _: self._wake())

    def _fetch(self, target: TargetFile) -> Path | None:
        """Fetch a bundle, unless its slot is intact (None)."""
        if self._ports.slots.intact(target.sha256):
            return None
        return self._ports.repositories.fetch(target, self._cancelled.is_set)

    def _finished(self, status: DeviceStatus, now: float) -> Outcome | None:
        assert self._job is not None  # noqa: S101  advance() looked
        done, self._job = self._job, None
        try:
            result = done.result()
        except EdgeFleetError as error:
            return self._failed(status, error, now)
        except Exception:  # noqa: BLE001  a defect in a step must never end inference
            _LOG.exception("a step of the installation failed")
            defect = StepFailedError(f"the step '{status}' failed unexpectedly", hint="see the agent's log")
            return self._failed(status, defect, now)
        if isinstance(result, AdmissionVerdict):
            return self._judged(result, now)
        self._failures = 0
        if status == "downloading":
            self._fetched = result
            how = "downloaded" if result else "already-here"
            return Outcome("bundle-complete", (("verified", how, "both repositories and the bundle's hash agree"),))
        self._fetched = None
        return Outcome("bundle-staged")

    def _failed(self, status: DeviceStatus, error: EdgeFleetError, now: float) -> Outcome:
        self._failures += 1
        self._retry_at = now + _RETRY.delay_s(self._failures, self._ports.random())
        if isinstance(error, CorruptDownloadError):
            self._corrupt += 1
            event: tuple[EventKind, str, str] = ("download-corrupt", "hash-mismatch", error.message)
            if self._corrupt < CORRUPT_LIMIT:
                return Outcome(None, (event,))
            self._given_up = True
            given_up = f"{self._corrupt} corrupt downloads; tried again at the next order"
            return Outcome("bundle-unavailable", (event, ("download-failed", "corrupt", given_up)))
        cause = "disk-full" if isinstance(error, StorageError) else error.code
        events = (("download-failed", cause, error.message),) if cause not in self._told else ()
        self._told.add(cause)
        if status == "verified":  # it could not be moved into its slot
            return Outcome("bundle-refused", events)  # type: ignore[arg-type]
        return Outcome(None, events)  # type: ignore[arg-type]

    def _judged(self, verdict: AdmissionVerdict, now: float) -> Outcome:
        detail = verdict.detail or f"p99 latency {verdict.latency_p99_us} us, {verdict.seconds:.2f} s"
        if verdict.kind == "passed":
            return Outcome("admission-passed", (("admission-passed", verdict.cause, detail),))
        self._postponed += 1
        if verdict.kind == "postponed" and self._postponed < POSTPONED_LIMIT:
            self._retry_at = now + _RETRY.delay_s(self._postponed, self._ports.random())
            return Outcome("admission-postponed")
        return Outcome("admission-refused", (("admission-refused", verdict.cause, detail),), quarantine=True)


def _admission(record: DeviceRecord, profile: str, ports: Ports) -> AdmissionRequest:
    assert record.candidate is not None  # noqa: S101  advance() looked
    pin = record.policy.acceptance
    path = ports.slots.path(record.candidate.bundle_sha256)
    return AdmissionRequest(
        model=ModelRef(path=str(path), release=record.candidate),
        profile=profile,
        compat_hash=record.compat_hash,
        acceptance_sha256=pin.sha256 if pin else None,
        acceptance_minimum=pin.minimum if pin else 0.0,
    )
