# SPDX-License-Identifier: Apache-2.0
"""Applications hold updates off with small files: ``holds/NAME.json`` with ``until`` (Unix seconds) and ``reason``.

A hold ends by itself, outlives reboots, and stops nothing but new activations: a way back is never held off. A file
that cannot be read, or asks for longer than a hold may last from when it was written, counts as long as that.
"""

from pathlib import Path
from typing import Annotated

import msgspec

from device_agent.adapters.storage.durable import sync_folder, write_durably
from device_agent.errors import storage_failed
from edgefleet.contracts.files import read_regular
from edgefleet.contracts.manifest import Fact
from edgefleet.contracts.names import Name

#: A hold that nobody renews or takes back ends after so long.
HOLD_LIMIT_S = 86_400.0


class Hold(Fact, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """One application's wish not to be disturbed, until a time in Unix seconds."""

    until: float
    reason: Annotated[str, msgspec.Meta(max_length=300)] = ""


class HoldFolder:
    """The holds of one device."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def reason(self, now: float) -> str:
        """Return who holds updates off at a time, and why; empty where nobody does."""
        if not self._folder.is_dir():
            return ""
        for path in sorted(self._folder.glob("*.json")):
            hold = self._read(path)
            if hold is not None and hold.until > now:
                return f"{path.stem}: {hold.reason}"
        return ""

    def put(self, name: Name, hold: Hold) -> None:
        """Hold updates off, or renew a hold.

        Raises:
            StorageError: the file cannot be written.
        """
        try:
            write_durably(self._folder / f"{name}.json", msgspec.json.encode(hold))
        except OSError as error:
            raise storage_failed(f"write the hold '{name}'", error) from error

    def release(self, name: Name) -> None:
        """Take a hold back; one that is not there is no fault.

        Raises:
            StorageError: the file cannot be deleted.
        """
        try:
            (self._folder / f"{name}.json").unlink(missing_ok=True)
            if self._folder.is_dir():
                sync_folder(self._folder)
        except OSError as error:
            raise storage_failed(f"take the hold '{name}' back", error) from error

    def _read(self, path: Path) -> Hold | None:
        try:
            latest = path.stat().st_mtime + HOLD_LIMIT_S
            data = read_regular(path)
        except OSError:
            return None  # it was taken back just now
        try:
            hold = msgspec.json.decode(data, type=Hold)
        except msgspec.DecodeError:
            return Hold(until=latest, reason="a hold that cannot be read")
        return Hold(until=min(hold.until, latest), reason=hold.reason)
