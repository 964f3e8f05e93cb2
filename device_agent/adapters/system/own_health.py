# SPDX-License-Identifier: Apache-2.0
"""What the running agent reports of itself to the launcher that will start the next one.

It is well when it has served for a while with a worker that answers, and none that dies again and again; one on trial
must have heard from the server, too, for an agent that cannot is one that can never be updated again.
"""

import logging
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from device_agent.launcher import FOLDER_VARIABLE, HEALTHY, SET_VARIABLE, STOPPED, read_record, write

_LOG = logging.getLogger("edgefleet.agent")
#: What comes up and stays up for so long is no crash loop.
SETTLED_S = 30.0


class OwnHealth:
    """Reports once; an agent that no launcher started reports nothing."""

    def __init__(self, environment: Mapping[str, str], *, now: float, settled_s: float = SETTLED_S) -> None:
        folder = environment.get(FOLDER_VARIABLE, "")
        self._folder = Path(folder) if folder and (Path(folder) / "record.json").exists() else None
        self._set = environment.get(SET_VARIABLE, "")
        self._on_trial = self._folder is not None and bool(self._set) and read_record(self._folder).trial == self._set
        self._settled_s = settled_s
        self._well_at = now + settled_s
        self._reported = False

    def worker_ended(self, now: float) -> None:
        """Start to wait anew, for longer than a worker that dies at its start is kept from starting again."""
        self._well_at = max(self._well_at, now + 2.0 * self._settled_s)

    def step(self, now: float, *, hung: bool, heard_from_server: bool) -> bool:
        """Report when all is well; tell whether that was just now."""
        if self._reported or self._folder is None or hung or now < self._well_at:
            return False
        if self._on_trial and not heard_from_server:
            return False
        self._reported = self._say(HEALTHY)
        if self._reported:
            signal.alarm(0)  # the launcher's, which would end a start that hangs
        return self._reported

    def stopped(self) -> None:
        """Report a clean stop, which counts against nobody."""
        if self._folder is not None:
            self._say(STOPPED)

    def happened(self) -> str:
        """Return what the launcher did at this start, once; empty where that was nothing."""
        path = self._folder / "happened" if self._folder is not None else None
        if path is None or not path.exists():
            return ""
        try:
            said = path.read_text().strip()
            path.unlink()
        except (OSError, ValueError):
            return ""
        return said

    @property
    def running(self) -> str:
        """The SHA-256 of the wheel set that runs, empty for the system's own."""
        return self._set

    def _say(self, report: str) -> bool:
        assert self._folder is not None  # noqa: S101  the callers looked
        try:
            write(self._folder / report, self._set)
        except OSError as error:
            _LOG.warning("the launcher cannot be told '%s': %s", report, error)
            return False
        return True


def of_this_process(now: float, *, time_scale: float) -> OwnHealth:
    """Return the report of the agent that this process is."""
    return OwnHealth(os.environ, now=now, settled_s=SETTLED_S / time_scale)
