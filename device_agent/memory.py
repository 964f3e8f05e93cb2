# SPDX-License-Identifier: Apache-2.0
"""The agent's memory: the one record, saved before it is acted on, and what survives when it is unreadable."""

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from device_agent.core.life.lifecycle import Trigger, step
from device_agent.core.life.record import DeviceRecord, Progress, Quarantined, lifted, reported
from device_agent.core.life.recovery import newer_commit
from device_agent.core.life.release_set import Member, ReleaseSet, hashes, set_of
from device_agent.core.timers import Timers
from device_agent.errors import DamagedStateError
from device_agent.ports import Ports
from edgefleet.contracts.errors import StorageError
from edgefleet.contracts.messages import DeviceStatus, RunningRelease

_LOG = logging.getLogger("edgefleet.agent")
SAVE_RETRY_S = 2.0
_COUNT_SAVE_S = 5.0


class Memory:
    """The record of one device. ``unsaved`` is true while the disk refuses it: nothing may be activated then."""

    def __init__(self, ports: Ports, timers: Timers) -> None:
        self.record = DeviceRecord()
        self.unsaved = False
        self._uncounted = False
        self._ports = ports
        self._timers = timers

    @property
    def status(self) -> DeviceStatus:
        """The state of the life cycle."""
        return self.record.status  # type: ignore[return-value]  # recover() lets only known states in

    def load(self) -> tuple[DeviceRecord, str]:
        """Return what is remembered, and (where it had to be repaired) a sentence on that."""
        try:
            record = self._ports.state.load() or DeviceRecord()
        except DamagedStateError as error:
            aside = self._ports.state.set_aside()
            return self._from_slots(), f"{error.message}; set aside as '{aside.name}'"
        releases, counter = self._ports.slots.last_committed()
        newer = newer_commit(record, _members(releases), counter)
        repair = "" if newer == record else f"the slots' marks know of a later commit, by the order {counter}"
        return newer, repair

    def save(self, record: DeviceRecord) -> None:
        """Save durably; where the disk refuses, go on with what is in memory and try again soon."""
        self.record = record
        try:
            self._ports.state.save(record)
            self.unsaved = self._uncounted = False
        except StorageError as error:
            _LOG.warning("%s", error)
            self.unsaved = True
            if isinstance(error, DamagedStateError):  # the next try finds an empty one
                with suppress(StorageError):
                    self._ports.state.set_aside()
            self._timers.sooner("save", self._ports.clock.monotonic() + SAVE_RETRY_S)

    def update(self, **changes: Any) -> None:
        """Save the record with some fields replaced."""
        self.save(msgspec.structs.replace(self.record, **changes))

    def move(self, trigger: Trigger, **changes: Any) -> None:
        """Go on in the life cycle, durably.

        Raises:
            LifecycleFaultError: the state does not know the trigger.
        """
        self.update(status=step(self.status, trigger), changed_at=self._ports.clock.wall(), **changes)

    def count(self, progress: Mapping[str, Progress]) -> None:
        """Note how far shadow or trial have come; saved soon, because a power cut may only cost them some time."""
        self.record = msgspec.structs.replace(self.record, progress=dict(progress))
        self._uncounted = True
        self._timers.sooner("save", self._ports.clock.monotonic() + _COUNT_SAVE_S)

    def save_due(self, now: float) -> None:
        """Save what has not been saved yet, when it is time."""
        if self._timers.take("save", now) and (self.unsaved or self._uncounted):
            self.save(self.record)

    def lift(self, bundle_sha256s: tuple[str, ...]) -> None:
        """Let bundles be tried again, once by each signed order: what fails again under it stays in quarantine."""
        in_quarantine = {entry.bundle_sha256 for entry in self.record.quarantine}
        keys = {sha256: f"lifted {sha256}" for sha256 in bundle_sha256s if sha256 in in_quarantine}
        due = tuple(sha256 for sha256, key in keys.items() if key not in self.record.reported)
        if not due:
            return
        record = lifted(self.record, due)
        for sha256 in due:
            record = reported(record, keys[sha256])
            try:
                self._ports.slots.unmark_bad(sha256)
            except StorageError as error:
                _LOG.warning("%s", error)
        self.save(record)

    def report_once(self, key: str) -> bool:
        """Tell whether ``key`` was not reported before, and remember it."""
        if key in self.record.reported:
            return False
        self.save(reported(self.record, key))
        return True

    def keep_slots(self) -> None:
        """Delete the bundles that the record does not name."""
        record = self.record
        self._ports.slots.keep_only(sorted(hashes(record.active) | hashes(record.previous) | hashes(record.candidate)))

    def _from_slots(self) -> DeviceRecord:
        """Start over from the slots' own marks."""
        releases, counter = self._ports.slots.last_good()
        quarantine = tuple(Quarantined(bundle_sha256=sha256) for sha256 in self._ports.slots.bad())
        return DeviceRecord(active=_members(releases), counter=counter, quarantine=quarantine)


def _members(releases: Iterable[RunningRelease]) -> ReleaseSet:
    return set_of(Member(release=release) for release in releases)
