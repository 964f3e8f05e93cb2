# SPDX-License-Identifier: Apache-2.0
"""Slots as content-addressed files: ``slots/<sha256>.bundle``, with small marks beside them.

A mark ``<sha256>.good`` says that the bundle was committed, ``<sha256>.bad`` that it is in quarantine. They repeat
what the state database says, and are read only when that is unreadable.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from device_agent.adapters.storage.durable import sync_file, sync_folder, write_durably
from device_agent.errors import storage_failed
from edgefleet.contracts.canonical import sha256_file
from edgefleet.contracts.errors import BundleError
from edgefleet.contracts.files import read_regular
from edgefleet.contracts.manifest import Fact, Natural
from edgefleet.contracts.messages import RunningRelease


class GoodMark(Fact, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Beside a slot: this release was committed, by this order, then (Unix seconds)."""

    release: RunningRelease
    counter: Natural
    committed_at: float


class SlotFolder:
    """The slots of one device, in one folder.

    Raises:
        StorageError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise storage_failed(f"make the folder '{folder}'", error) from error

    def path(self, bundle_sha256: str) -> Path:
        """Return where the bundle lies, or would lie."""
        return self._folder / f"{bundle_sha256}.bundle"

    def intact(self, bundle_sha256: str) -> bool:
        """Tell whether the bundle is there and has its hash."""
        try:
            self._check(self.path(bundle_sha256), bundle_sha256)
        except (OSError, BundleError):
            return False
        return True

    def adopt(self, source: Path, bundle_sha256: str) -> Path:
        """Move a file of the same file system into its slot, durably.

        Raises:
            BundleError: it has another hash.
            StorageError: it cannot be moved.
        """
        try:
            self._check(source, bundle_sha256)
            sync_file(source)
            slot = source.replace(self.path(bundle_sha256))
            sync_folder(self._folder)
        except OSError as error:
            raise storage_failed(f"store the bundle {bundle_sha256[:12]}", error) from error
        return slot

    def mark_good(self, release: RunningRelease, *, counter: int, committed_at: float) -> None:
        """Note that the bundle was committed.

        Raises:
            StorageError: the note cannot be written.
        """
        mark = GoodMark(release=release, counter=counter, committed_at=committed_at)
        self._write(f"{release.bundle_sha256}.good", msgspec.json.encode(mark))

    def mark_bad(self, bundle_sha256: str) -> None:
        """Note that the bundle is in quarantine.

        Raises:
            StorageError: the note cannot be written.
        """
        self._write(f"{bundle_sha256}.bad", b"")

    def unmark_bad(self, bundle_sha256: str) -> None:
        """Take the note away that the bundle is in quarantine.

        Raises:
            StorageError: it cannot be taken away.
        """
        try:
            (self._folder / f"{bundle_sha256}.bad").unlink(missing_ok=True)
            sync_folder(self._folder)
        except OSError as error:
            raise storage_failed("take a bundle out of quarantine", error) from error

    def last_committed(self) -> tuple[tuple[RunningRelease, ...], int]:
        """Return the releases that the highest order's commit noted, and that order's counter; (), 0 without any."""
        return next(self._commits(), ((), 0))

    def last_good(self) -> tuple[tuple[RunningRelease, ...], int]:
        """Return the last committed releases whose files still have their hashes, and their order's counter."""
        for releases, counter in self._commits():
            intact = tuple(release for release in releases if self.intact(release.bundle_sha256))
            if intact:
                return intact, counter
        return (), 0

    def _commits(self) -> Iterator[tuple[tuple[RunningRelease, ...], int]]:
        """Give what each order's commit noted, the latest first, without what is in quarantine."""
        bad = self.bad()
        marks = [mark for mark in map(_read_mark, self._folder.glob("*.good")) if mark is not None]
        good = [mark for mark in marks if mark.release.bundle_sha256 not in bad]
        for counter in sorted({mark.counter for mark in good}, reverse=True):
            releases = [mark.release for mark in good if mark.counter == counter]
            yield tuple(sorted(releases, key=lambda release: release.name)), counter

    def bad(self) -> tuple[str, ...]:
        """Return the bundles noted as bad."""
        return tuple(sorted(path.stem for path in self._folder.glob("*.bad")))

    def keep_only(self, bundle_sha256s: Sequence[str]) -> None:
        """Delete the other bundles and their good marks; bad marks stay.

        Raises:
            StorageError: one cannot be deleted.
        """
        try:
            for path in [*self._folder.glob("*.bundle"), *self._folder.glob("*.good")]:
                if path.stem not in bundle_sha256s:
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_failed("delete the bundles that are not needed any more", error) from error

    def _check(self, path: Path, bundle_sha256: str) -> None:
        found = sha256_file(path)
        if found != bundle_sha256:
            raise BundleError(
                f"'{path.name}' has the SHA-256 {found[:12]}…, expected {bundle_sha256[:12]}…",
                hint="it is fetched again at the next poll",
            )

    def _write(self, name: str, data: bytes) -> None:
        try:
            write_durably(self._folder / name, data)
        except OSError as error:
            raise storage_failed(f"write the slot's note '{name}'", error) from error


def _read_mark(path: Path) -> GoodMark | None:
    try:
        mark = msgspec.json.decode(read_regular(path), type=GoodMark)
    except (OSError, msgspec.DecodeError):
        return None  # a damaged note is no note
    return mark if mark.release.bundle_sha256 == path.stem else None


def names_in(folder: Path) -> frozenset[str]:
    """Return the names of the models that were committed here and are still kept."""
    return frozenset(mark.release.name for mark in map(_read_mark, folder.glob("*.good")) if mark is not None)
