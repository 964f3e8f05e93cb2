# SPDX-License-Identifier: Apache-2.0
"""The agent's memory: the one record, saved before it is acted on, and what survives when it is unreadable."""

import logging
from contextlib import suppress
from typing import Any

import msgspec

from device_agent.core.lifecycle import Trigger, step
from device_agent.core.record import DeviceRecord, Progress, quarantined, reported
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
        """Return what is remembered, and (where it was unreadable and set aside) a sentence on the repair."""
        try:
            return self._ports.state.load() or DeviceRecord(), ""
        except DamagedStateError as error:
            aside = self._ports.state.set_aside()
            return self._from_slots(), f"{error.message}; set aside as '{aside.name}'"

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

    def count(self, progress: Progress) -> None:
        """Note how far shadow or trial have come; saved soon, because a power cut may only cost them some time."""
        self.record = msgspec.structs.replace(self.record, progress=progress)
        self._uncounted = True
        self._timers.sooner("save", self._ports.clock.monotonic() + _COUNT_SAVE_S)

    def save_due(self, now: float) -> None:
        """Save what has not been saved yet, when it is time."""
        if self._timers.take("save", now) and (self.unsaved or self._uncounted):
            self.save(self.record)

    def quarantine(self, release: RunningRelease) -> None:
        """Remember, in the record and beside the slot, that this device will not try a bundle again."""
        try:
            self._ports.slots.mark_bad(release.bundle_sha256)
        except StorageError as error:  # the record says it too
            _LOG.warning("%s", error)
        self.save(quarantined(self.record, release.bundle_sha256))

    def report_once(self, key: str) -> bool:
        """Tell whether ``key`` was not reported before, and remember it."""
        if key in self.record.reported:
            return False
        self.save(reported(self.record, key))
        return True

    def keep_slots(self) -> None:
        """Delete the bundles that the record does not name."""
        releases = (self.record.active, self.record.previous, self.record.candidate)
        self._ports.slots.keep_only([release.bundle_sha256 for release in releases if release is not None])

    def _from_slots(self) -> DeviceRecord:
        """Start over from the slots' own marks."""
        good = self._ports.slots.last_good()
        active, counter = good if good is not None else (None, 0)
        return DeviceRecord(active=active, counter=counter, quarantine=self._ports.slots.bad())
