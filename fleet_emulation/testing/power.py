# SPDX-License-Identifier: Apache-2.0
"""The power plug of emulated boards and devices: pull it now, at a time, or when something happens."""

import threading
import time
from collections.abc import Callable
from typing import Protocol

from edgefleet.contracts.errors import EdgeFleetError, UnreachableError

_LOOK_S = 0.002


class Powered(Protocol):
    """What has a plug: an emulated board, or a Linux device."""

    @property
    def on(self) -> bool:
        """Tell whether it runs."""

    def cut_power(self) -> None:
        """End it at once; what it had in memory is lost."""

    def start(self) -> None:
        """Switch it on."""


class PlannedCut:
    """A power cut that was asked for and comes by itself; :meth:`wait` for it before you look at what it did."""

    def __init__(self, device: Powered, due: Callable[[], bool], what: str) -> None:
        self._device = device
        self._due = due
        self._what = what
        self._given_up = threading.Event()
        self._error: EdgeFleetError | None = None
        self.done = False
        self._thread = threading.Thread(target=self._watch, name="edgefleet-power", daemon=True)
        self._thread.start()

    def wait(self, timeout_s: float = 60.0) -> None:
        """Wait until the power is cut.

        Raises:
            UnreachableError: what it waits for has not come.
            EdgeFleetError: the event itself failed to be looked at.
        """
        self._thread.join(timeout_s)
        self.cancel()
        if self._error is not None:
            raise self._error
        if not self.done:
            raise UnreachableError(
                f"the power was not cut within {timeout_s:g} s: {self._what} did not come",
                hint="see what the device does instead",
            )

    def cancel(self) -> None:
        """Do not cut the power any more."""
        self._given_up.set()
        self._thread.join()

    def _watch(self) -> None:
        try:
            while not self._due():
                if self._given_up.wait(_LOOK_S):
                    return
            self._device.cut_power()
            self.done = True
        except EdgeFleetError as error:
            self._error = error


class Power:
    """Every device's plug; see :attr:`EdgeFleet.power`."""

    def __init__(self) -> None:
        self._planned: list[PlannedCut] = []

    def cut(self, *devices: Powered) -> None:
        """End devices at once, as a pulled plug does; one that is off stays off."""
        for device in devices:
            device.cut_power()

    def restore(self, *devices: Powered) -> None:
        """Switch devices on again; one that is on stays on."""
        for device in devices:
            if not device.on:
                device.start()

    def cut_after(self, device: Powered, seconds: float) -> PlannedCut:
        """Cut a device's power when some seconds have passed."""
        due_s = time.monotonic() + seconds
        return self._plan(device, lambda: time.monotonic() >= due_s, f"the time in {seconds:g} s")

    def cut_when(self, device: Powered, event: Callable[[], bool]) -> PlannedCut:
        """Cut a device's power as soon as ``event`` is true; it is asked every 2 ms, from another thread."""
        return self._plan(device, event, "the event")

    def close(self) -> None:
        """Cancel what has not come yet."""
        for planned in self._planned:
            planned.cancel()

    def _plan(self, device: Powered, due: Callable[[], bool], what: str) -> PlannedCut:
        planned = PlannedCut(device, due, what)
        self._planned.append(planned)
        return planned
