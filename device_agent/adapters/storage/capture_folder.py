# SPDX-License-Identifier: Apache-2.0
"""Captured inputs on the disk: redacted first, bounded, and gone when the server has them.

Nothing touches the disk before the redaction has run, in a child that is confined. A redaction that fails, or takes too
long, keeps nothing. One file an input, named by its hash; the oldest go where there is no room.
"""

import hashlib
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from device_agent.adapters.storage.durable import write_durably
from device_agent.core.settings.capture import Budget, admitted
from device_agent.process_bounds import ONE_THREAD
from edgefleet.contracts.capture import CAPTURE_LIMIT_BYTES, CAPTURE_PATH, CapturedInput, read_captured
from edgefleet.contracts.errors import EdgeFleetError, UnreachableError
from edgefleet.contracts.files import read_regular

if TYPE_CHECKING:
    from device_agent.adapters.network.https import ServerConnection

_LOG = logging.getLogger("edgefleet.agent")
_REDACTION_S = 30.0
_UPLOAD_S = 600.0
_HINT = "it is tried again later"
_STORED = (200, 201, 204)
_NOT_WANTED = (403, 404, 405, 413, 422)


class CaptureFolder:
    """The captured inputs of one device; ``limit_bytes`` bounds the folder, ``bytes_per_day`` what comes into it."""

    def __init__(
        self, folder: Path, *, limit_bytes: int = 0, bytes_per_day: int = 0, redaction: str | None = None
    ) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._bytes_per_day = bytes_per_day
        self._redaction = redaction
        self._budget = Budget(0.0, 0)

    def keep(self, captured: CapturedInput, now_s: float) -> bool:
        """Redact and store one input; False where it may not be kept.

        Raises:
            OSError: the disk says no.
        """
        data = self._redacted(msgspec.json.encode(captured))
        if data is None or len(data) > min(CAPTURE_LIMIT_BYTES, self._limit_bytes):
            return False
        budget = admitted(self._budget, len(data), now_s, bytes_per_day=self._bytes_per_day)
        if budget is None:
            return False
        self._make_room(len(data))
        write_durably(self._folder / f"{hashlib.sha256(data).hexdigest()}.json", data, mode=0o600)
        self._budget = budget
        return True

    def upload(self, connection: "ServerConnection", limit: int = 20) -> int:
        """Hand some of the oldest to the server and delete what it has, or does not want; return how many it took.

        Raises:
            UnreachableError: the server does not answer; the rest is tried again.
        """
        taken = 0
        for path in self.files()[:limit]:
            status, _ = connection.post_json(CAPTURE_PATH, read_regular(path))
            if status in _STORED:
                taken += 1
            if status in (*_STORED, *_NOT_WANTED):
                path.unlink(missing_ok=True)
        return taken

    def deliver(self) -> None:
        """Upload in a process of its own, so that the agent holds no HTTP client.

        Raises:
            UnreachableError: it did not come to its end; the rest is tried again.
        """
        if not self.files():
            return
        command = [sys.executable, "-m", "device_agent.capture_upload", str(os.getpid()), str(self._folder.parent)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=_UPLOAD_S, check=False)
        except (OSError, subprocess.SubprocessError) as error:
            raise UnreachableError(f"the upload did not end: {error}", hint=_HINT) from error
        if done.returncode:
            raise UnreachableError(done.stderr[-300:].decode(errors="replace").strip() or "it failed", hint=_HINT)

    def files(self) -> list[Path]:
        """Return the captured inputs, the oldest first."""
        found = self._folder.glob("*.json") if self._folder.exists() else ()
        return sorted(found, key=lambda path: (path.stat().st_mtime_ns, path.name))

    def _make_room(self, size_bytes: int) -> None:
        files = self.files()
        used_bytes = sum(path.stat().st_size for path in files)
        for path in files:
            if used_bytes + size_bytes <= self._limit_bytes:
                return
            used_bytes -= path.stat().st_size
            path.unlink()

    def _redacted(self, data: bytes) -> bytes | None:
        if self._redaction is None:
            return data
        command = [sys.executable, "-m", "device_agent.redaction", self._redaction]
        try:
            done = subprocess.run(
                command, input=data, capture_output=True, timeout=_REDACTION_S, env=os.environ | ONE_THREAD, check=False
            )
            if done.returncode == 0:
                return msgspec.json.encode(read_captured(done.stdout))
        except (OSError, subprocess.SubprocessError, EdgeFleetError) as error:
            _LOG.warning("the redaction of a captured input failed, and nothing of it is kept: %s", error)
            return None
        if done.stderr:
            _LOG.warning("the redaction failed, and nothing is kept: %s", done.stderr[-300:].decode(errors="replace"))
        return None
