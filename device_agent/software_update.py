# SPDX-License-Identifier: Apache-2.0
"""Following an order that names the agent's own software: fetched, installed beside what runs, and then restarted into.

The launcher tries it from there, and takes it back (:mod:`device_agent.launcher`). Each step begins anew after a power
cut: what was fetched is resumed, what was installed is due, and what was refused stays refused for this order.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Protocol

from device_agent.core.orders.release_orders import Order, SignedSoftware
from device_agent.core.orders.software_orders import judge
from device_agent.core.recall import Recall
from device_agent.core.schedule import Backoff
from device_agent.core.timers import Timers
from device_agent.errors import CorruptDownloadError, SoftwareRefusedError
from device_agent.memory import Memory
from device_agent.ports import Ports
from edgefleet.contracts.errors import EdgeFleetError, StorageError
from edgefleet.contracts.messages import EventKind, RunningRelease

CORRUPT_LIMIT = 3
_RETRY = Backoff(first_s=2.0, cap_s=300.0)
#: Between two looks at whether applications still hold the update off.
_HELD_S = 2.0
_LOG = logging.getLogger("edgefleet.agent")


class Tell(Protocol):
    """Stores an event of the present order."""

    def __call__(self, kind: EventKind, cause: str, detail: str = "", *, release: RunningRelease | None = None) -> None:
        """Store it."""


class SoftwareUpdate:
    """At most one step at a time; the agent asks :meth:`step` on each tick."""

    def __init__(self, ports: Ports, timers: Timers, memory: Memory, tell: Tell, *, wake: Callable[[], None]) -> None:
        #: The process is to end, so that the launcher starts what is due.
        self.restart_due = False
        #: What runs and was found good; None for the system's own.
        self.release: RunningRelease | None = None
        #: What failed its trial here.
        self.bad: tuple[str, ...] = ()
        self._ports = ports
        self._own = ports.software
        self._timers = timers
        self._memory = memory
        self._tell = tell
        self._wake = wake
        self._job: Future[Path | None] | None = None
        self._cancelled = threading.Event()
        self._about: SignedSoftware | None = None
        self._fetched: Path | None = None
        self._on_trial = False
        self._judged: Order | None = None
        self._failures = self._corrupt = 0
        self._told: set[str] = set()
        self._retry_at = 0.0
        #: The recalls that what lies here was last looked at for.
        self._heeded: Recall | None = None

    @property
    def on_trial(self) -> bool:
        """Tell whether what runs has yet to prove itself."""
        return self._on_trial

    @property
    def busy(self) -> bool:
        """Tell whether a step is under way; there is one download at a time."""
        return self._job is not None

    def started(self, happened: str) -> None:
        """Take note of what the launcher did at this start."""
        if self._own is None:
            return
        record, here = self._own.record, self._own.here
        self.bad, self._on_trial = record.bad, here.on_trial
        self.release = None if here.on_trial else self._own.release_of(here.running)
        if happened == "software-rolled-back" and record.bad:
            failed = record.bad[-1]
            self._answer(failed)
            detail = f"wheel set {failed} did not come up well; {here.running or 'the system package'} runs again"
            self._tell("software-rolled-back", "trial-failed", detail, release=self._own.release_of(failed))

    def proved(self) -> None:
        """Take note that what runs has reported health to the launcher."""
        if self._own is None or not self._on_trial:
            return
        running = self._own.here.running
        self._judged, self._on_trial = None, False
        self.release = self._own.release_of(running)
        self._tell("software-committed", "healthy", f"wheel set {running}", release=self.release)

    def lost_a_model(self, release: RunningRelease) -> None:
        """Go back at once from software on trial under which a model failed that answered before."""
        if self._own is None or not self._on_trial:
            return
        running = self._own.here.running
        if self._answer(running):
            detail = f"{release.name} {release.version} answered before, and fails with it"
            self._tell("software-rolled-back", "model-failed", detail, release=self._own.release_of(running))
        self._own.give_up()
        self.restart_due = True
        self._wake()

    def heed(self) -> None:
        """Leave software that a signed order forbids, where there is other that may run."""
        own, recall = self._own, self._memory.record.recall
        if own is None or recall == self._heeded or not own.here.launcher:
            return
        running = own.here.running
        struck = {name: why for name, release in own.startable.items() if (why := _strikes(recall, name, release))}
        kept = own.without(struck)
        leaves = running in struck and running != (kept.trial or kept.active)
        if leaves and not kept.trial and f"recalled {running}" not in self._told:  # to one on trial is no way back
            self._told.add(f"recalled {running}")
            self._tell("software-rolled-back", "recalled", struck[running], release=own.release_of(running))
        try:
            if struck:
                own.forbid(struck)
        except StorageError as error:  # tried again at the next step
            _LOG.warning("%s", error)
            return
        self._heeded = recall
        if leaves:
            self.restart_due = True
            self._wake()
        elif running in struck and self._memory.report_once(f"software-recalled {running}"):
            detail = f"{struck[running]}; nothing else on this device may run, and so it goes on"
            self._tell("software-refused", "recalled", detail, release=own.release_of(running))

    def forget_failures(self) -> None:
        """A new order starts with a clean sheet."""
        self._failures = self._corrupt = 0
        self._told.clear()
        self._retry_at = 0.0

    def lift(self, order: Order) -> None:
        """Let software be tried again, once by each order that says so, whatever else the order wants."""
        named = [sha256 for sha256 in self.bad if sha256 in order.lift] if self._job is None else []
        due = [sha256 for sha256 in named if f"software-lifted {sha256}" not in self._memory.record.reported]
        if self._own is None or not due:
            return
        try:
            self._own.lift(due)
        except StorageError as error:  # tried again at the next step
            _LOG.warning("%s", error)
            return
        for sha256 in due:
            self._memory.report_once(f"software-lifted {sha256}")
        self.bad, self._judged = self._own.record.bad, None

    def step(self, order: Order | None, *, free: bool) -> None:
        """Do what is next; ``free`` says that the device is at nothing else and the order's models are settled."""
        wanted = order.software if order is not None else None
        if self._job is not None:
            if (order is not None and wanted != self._about) or self._struck(self._about):
                self._cancelled.set()
            if not self._job.done():
                return
            self._finish()
        self.heed()
        if order is not None:
            self.lift(order)
        if order is None or wanted is None or not free or order is self._judged:
            return
        if self._ports.clock.monotonic() < self._retry_at:
            self._timers.sooner("installation", self._retry_at)
            return
        self._follow(order, wanted)

    def _follow(self, order: Order, wanted: SignedSoftware) -> None:
        self._judged = order
        if self._own is None:
            return
        if why := self._struck(wanted):
            self._refuse(wanted, "recalled", why)
            return
        sha256 = wanted.target.sha256
        verdict = judge(wanted, self._own.record, self._own.here)
        if verdict.action == "refuse":
            self._refuse(wanted, verdict.cause, verdict.detail)
        elif verdict.action == "choose":
            self._again_in(_HELD_S)  # what the disk refuses is no reason to ask it all the time
            self._own.choose(sha256)
            self._retry_at = 0.0
        elif verdict.action == "restart" and not self._held():
            _LOG.info("%s %s is due: the agent ends for its launcher", wanted.release.name, wanted.release.version)
            self.restart_due = True
            self._wake()
        elif verdict.action == "install" and not self._is_answered(sha256):
            self._bring(wanted)

    def _bring(self, wanted: SignedSoftware) -> None:
        """Fetch a set, then install it when no application minds."""
        sha256 = wanted.target.sha256
        if self._about != wanted:
            self._about, self._fetched = wanted, None
        if self._memory.report_once(f"software-found {sha256}"):
            self._tell("software-found", "ordered", release=wanted.release)
        if self._fetched is None:
            self._submit(lambda: self._ports.repositories.fetch(wanted.target, self._cancelled.is_set))
        elif not self._held():
            fetched, self._fetched = self._fetched, None
            self._submit(lambda: self._install(fetched, wanted.release))

    def _install(self, fetched: Path, release: RunningRelease) -> None:
        assert self._own is not None  # noqa: S101  _follow() looked
        self._own.install(fetched, release)

    def _struck(self, wanted: SignedSoftware | None) -> str:
        """Return why a signed order forbids what another one wants; empty if none does."""
        return self._memory.record.recall.strikes(wanted.release) if wanted is not None else ""

    def _submit(self, work: Callable[[], Path | None]) -> None:
        self._cancelled = threading.Event()
        self._job = self._ports.executor.submit(work)
        self._job.add_done_callback(lambda _: self._wake())

    def _finish(self) -> None:
        assert self._job is not None  # noqa: S101  step() looked
        assert self._about is not None  # noqa: S101  _bring() set it
        done, self._job = self._job, None
        self._judged = self._heeded = None  # another set may lie here now
        try:
            self._fetched = done.result()
        except Exception as error:  # noqa: BLE001  a defect in a step must never end inference
            if not self._cancelled.is_set():
                self._failed(error, self._about)
            return
        self._failures = 0
        if self._fetched is not None:
            self._tell(
                "verified", "downloaded", "both repositories and the set's hash agree", release=self._about.release
            )

    def _failed(self, error: Exception, wanted: SignedSoftware) -> None:
        if isinstance(error, SoftwareRefusedError):
            self._refuse(wanted, error.cause, error.message)
            return
        self._failures += 1
        self._again_in(_RETRY.delay_s(self._failures, self._ports.random()))
        if isinstance(error, CorruptDownloadError):
            self._corrupt += 1
            self._tell("download-corrupt", "hash-mismatch", error.message, release=wanted.release)
            if self._corrupt >= CORRUPT_LIMIT:
                self._refuse(wanted, "corrupt", f"{self._corrupt} corrupt downloads; tried again at the next order")
            return
        _LOG.warning("%s", error, exc_info=None if isinstance(error, EdgeFleetError) else error)
        cause = getattr(error, "code", "step-failed")
        if cause not in self._told:
            self._told.add(cause)
            self._tell("download-failed", cause, str(error), release=wanted.release)

    def _refuse(self, wanted: SignedSoftware, cause: str, detail: str) -> None:
        """Say once why an order's software is not taken, and leave it at that until the next order."""
        if self._answer(wanted.target.sha256):
            self._tell("software-refused", cause, detail, release=wanted.release)

    def _answer(self, sha256: str) -> bool:
        return self._memory.report_once(f"software-answered {sha256}")

    def _is_answered(self, sha256: str) -> bool:
        return f"software-answered {sha256}" in self._memory.record.reported

    def _held(self) -> bool:
        """Tell whether an application holds updates off, and look again soon if so."""
        held = bool(self._ports.holds.reason(self._ports.clock.wall()))
        if held:
            self._again_in(_HELD_S)
        return held

    def _again_in(self, delay_s: float) -> None:
        self._judged = None
        self._retry_at = self._ports.clock.monotonic() + delay_s
        self._timers.sooner("installation", self._retry_at)


def _strikes(recall: Recall, sha256: str, release: RunningRelease | None) -> str:
    """Return why a set may not run; one of which nobody can say what it is has its hash still."""
    if release is not None:
        return recall.strikes(release)
    return f"wheel set {sha256} is recalled" if sha256 in recall.releases else ""
