# SPDX-License-Identifier: Apache-2.0
"""A whole agent with its processes, which polls a hostile site: it must neither end nor change its mind."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from edgefleet.contracts.errors import EdgeFleetError

_READY_S = 60.0
_LOOK_S = 0.1


class LiveAgent:
    """``edgefleet-agent run`` on an enrolled folder; use it as a context manager."""

    def __init__(self, folder: Path, *, poll_s: float = 0.3) -> None:
        self._folder = folder
        self._poll_s = poll_s

    def __enter__(self) -> "LiveAgent":
        command = [
            sys.executable,
            "-m",
            "device_agent",
            "run",
            "--data",
            str(self._folder),
            "--poll",
            str(self._poll_s),
        ]
        self._log = (self._folder / "agent.log").open("wb")
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self._log)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()
        self._log.close()

    @property
    def alive(self) -> bool:
        """Tell whether the supervisor that was started still runs."""
        return self._process.poll() is None

    def rss_bytes(self) -> int:
        """Return the supervisor's resident memory."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) << 10
        return 0

    def running(self) -> list[str]:
        """Return the versions that are committed, and behind them what the device tries, if anything."""
        models = self._status()["models"]
        return [release["version"] for release in (*models["active"], *models["candidate"])]

    def wait_for(self, version: str) -> None:
        """Wait until just this version is committed.

        Raises:
            EdgeFleetError: that does not happen, or the agent ended.
        """
        until = time.monotonic() + _READY_S
        while self.running() != [version]:
            if not self.alive or time.monotonic() > until:
                log = (self._folder / "agent.log").read_text()[-2000:]
                raise EdgeFleetError(f"the agent does not run {version}: {log}", hint="see its log")
            time.sleep(_LOOK_S)

    def _status(self) -> dict[str, Any]:
        command = [sys.executable, "-m", "device_agent", "status", "--data", str(self._folder), "--json"]
        shown = subprocess.run(command, capture_output=True, check=True)
        document: dict[str, Any] = json.loads(shown.stdout)
        return document
