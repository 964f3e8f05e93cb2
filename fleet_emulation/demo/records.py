# SPDX-License-Identifier: Apache-2.0
"""What the server and the agents recorded: the demo decides by these records, never by what it did itself."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

import msgspec

from edgefleet.contracts.errors import EdgeFleetError
from fleet_emulation.demo.stage import Stage
from fleet_server.adapters.devices.device_register import DeviceRecord
from fleet_server.api.documents import FleetEvent, RolloutStatus

T = TypeVar("T")
_LOOK_AGAIN_S = 0.25


class StoryTimeoutError(EdgeFleetError):
    """What a story waits for did not happen."""

    code = "demo-story-timeout"


class Records:
    """The records of one stage, read through the management API."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def events(self, *, since: float = 0.0, kind: str = "", cause: str = "") -> list[FleetEvent]:
        """Return the devices' events since a moment (Unix seconds), oldest first."""
        found = msgspec.convert(self._stage.api.get("events", limit=10_000), list[FleetEvent])
        return [
            event
            for event in reversed(found)
            if event.received_at >= since and kind in ("", event.kind) and cause in ("", event.cause)
        ]

    def devices(self) -> list[DeviceRecord]:
        """Return all devices with their last states."""
        return msgspec.convert(self._stage.api.get("devices"), list[DeviceRecord])

    def rollout(self, rollout_id: str) -> RolloutStatus:
        """Return a rollout as it is now."""
        return msgspec.convert(self._stage.api.get(f"rollouts/{rollout_id}"), RolloutStatus)

    def running(self, version: str) -> list[str]:
        """Return the devices whose state says that they run a version."""
        return [
            record.name
            for record in self.devices()
            if record.state is not None and record.state.running is not None and record.state.running.version == version
        ]


def wait_for(what: str, look: Callable[[], T | None], *, limit_s: float) -> T:
    """Look again and again until there is something to see, and return it.

    Raises:
        StoryTimeoutError: there is nothing in time.
    """
    for _ in _until(time.monotonic() + limit_s):
        seen = look()
        if seen:
            return seen
    raise StoryTimeoutError(f"waited {limit_s:.0f} s for {what}", hint="run again with --keep FOLDER and see its logs")


def devices_of(events: Iterable[FleetEvent]) -> list[str]:
    """Return the devices that events speak of, each once."""
    return sorted({event.device for event in events})


def _until(deadline: float) -> Iterator[None]:
    while time.monotonic() < deadline:
        yield
        time.sleep(_LOOK_AGAIN_S)
