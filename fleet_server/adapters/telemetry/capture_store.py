# SPDX-License-Identifier: Apache-2.0
"""Inputs that devices captured and uploaded: one file each, by device and hash, within a limit for all."""

import hashlib
import threading
from pathlib import Path

from edgefleet.contracts.capture import read_captured
from edgefleet.contracts.errors import NotAllowedError, StorageError
from fleet_server.adapters.storage.private_files import write_file


class CaptureStore:
    """A folder with a bound; 0 bytes: this server takes none."""

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self._folder = folder
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._used_bytes = sum(path.stat().st_size for path in folder.rglob("*.json")) if limit_bytes else 0

    def require_wanted(self) -> None:
        """Refuse before anything is read.

        Raises:
            NotAllowedError: this server takes no captured inputs.
        """
        if not self._limit_bytes:
            raise NotAllowedError(
                "this server takes no captured inputs", hint="start it with --captures-bytes, or switch capture off"
            )

    def store(self, device: str, data: bytes) -> None:
        """Store one input of a device; one that is there already is left alone.

        Raises:
            MessageError: it is malformed or too large.
            NotAllowedError: this server takes none.
            StorageError: there is no room for more; the device keeps it.
        """
        self.require_wanted()
        read_captured(data)
        path = self._folder / device / f"{hashlib.sha256(data).hexdigest()}.json"
        with self._lock:
            if path.exists():
                return
            if self._used_bytes + len(data) > self._limit_bytes:
                raise StorageError(
                    f"captured inputs fill their {self._limit_bytes} bytes",
                    hint="take some away, or give them more room",
                )
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_file(path, data, mode=0o600)
            self._used_bytes += len(data)
