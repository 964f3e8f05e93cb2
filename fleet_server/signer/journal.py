# SPDX-License-Identifier: Apache-2.0
"""The signer's own memory: an append-only log, one JSON document a line, hash-chained and synced before it signs.

Everything that the signer's checks compare with is rebuilt from this log at start; the web process cannot write it.
A last line that a power cut tore is dropped (nothing was signed on its strength); any other damage stops the signer.
"""

import os
from contextlib import suppress
from pathlib import Path

import msgspec

from edgefleet.contracts.canonical import canonical_json, sha256_hex
from edgefleet.contracts.errors import StorageError
from edgefleet.contracts.manifest import Fact

_GENESIS = "0" * 64


class MetadataSigned(Fact, frozen=True, kw_only=True, tag="metadata"):
    """A snapshot or timestamp of the image repository was signed."""

    role: str
    version: int
    sha256: str
    at: float


class RolloutOpened(Fact, frozen=True, kw_only=True, tag="rollout"):
    """A release may spread from now on, as its policy's waves allow."""

    name: str
    version: str
    policy: str
    at: float


class AssignmentSigned(Fact, frozen=True, kw_only=True, tag="assignment"):
    """A device got an order; ``target_path`` is that of an older signer, which knew orders of one bundle only."""

    device: str
    counter: int
    version: int
    sha256: str
    at: float
    target_paths: tuple[str, ...] = ()
    target_path: str | None = None
    renewal_grace_until: int | None = None
    lift: tuple[str, ...] = ()

    @property
    def paths(self) -> tuple[str, ...]:
        """What was ordered."""
        return self.target_paths or ((self.target_path,) if self.target_path else ())


class CertificateIssued(Fact, frozen=True, kw_only=True, tag="certificate"):
    """A device got a certificate."""

    device: str
    profile: str
    at: float


class DeviceDecommissioned(Fact, frozen=True, kw_only=True, tag="decommissioned"):
    """Nothing is signed for this device any more."""

    device: str
    at: float


Record = MetadataSigned | RolloutOpened | AssignmentSigned | CertificateIssued | DeviceDecommissioned


class _Line(Fact, frozen=True, kw_only=True):
    previous: str
    record: Record


class Journal:
    """The open log."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.records: list[Record] = []
        self._last_hash = _GENESIS
        self._size_bytes = self._replay()
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._file, self._size_bytes)

    def append(self, record: Record) -> None:
        """Add a record; it is on disk when this returns.

        Raises:
            StorageError: the disk said no; the log is as it was.
        """
        line = canonical_json(_Line(previous=self._last_hash, record=record)) + b"\n"
        try:
            self._write_whole(line)
        except OSError as error:
            with suppress(OSError):  # what is left of this line is overwritten by the next one
                os.ftruncate(self._file, self._size_bytes)
            raise StorageError(
                f"cannot write the signer's log '{self.path.name}': {error.strerror}",
                hint="free space on the server; nothing was signed",
            ) from error
        self._size_bytes += len(line)
        self._last_hash = sha256_hex(line)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write_whole(self, line: bytes) -> None:
        """Write a line behind the last whole one; a disk that is nearly full takes only a part of it at first."""
        written = 0
        while written < len(line):
            written += os.pwrite(self._file, line[written:], self._size_bytes + written)
        os.fsync(self._file)

    def _replay(self) -> int:
        """Read the log, and return how many of its bytes are whole lines."""
        if not self.path.exists():
            return 0
        kept = 0
        for line in self.path.read_bytes().splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            self._accept(line)
            kept += len(line)
        return kept

    def _accept(self, line: bytes) -> None:
        try:
            entry = msgspec.json.decode(line, type=_Line)
        except msgspec.MsgspecError as error:
            raise self._damaged() from error
        if entry.previous != self._last_hash:
            raise self._damaged()
        self.records.append(entry.record)
        self._last_hash = sha256_hex(line)

    def _damaged(self) -> StorageError:
        return StorageError(
            f"the signer's log '{self.path.name}' is damaged behind record {len(self.records)}",
            hint="restore it from a backup: without it the signer cannot know what it has signed",
        )
