# SPDX-License-Identifier: Apache-2.0
"""The inbox: an update that a person brought, kept until the server itself has spoken again.

It is written beside its place and renamed into it, so that there is a whole one or none.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from device_agent.adapters.storage.durable import sync_folder
from device_agent.errors import DiskFullError, storage_failed
from edgefleet.contracts.update_file import DESCRIPTION_PATH, UpdateFile

_OK, _NOT_FOUND = 200, 404
_PIECE_BYTES = 256 << 10


class Inbox:
    """The unpacked update below a data folder."""

    def __init__(self, root: Path) -> None:
        self.path = root / "inbox"
        self._aside = root / "inbox.new"

    @property
    def present(self) -> bool:
        """Tell whether there is one."""
        return (self.path / DESCRIPTION_PATH).exists()

    @property
    def stamp(self) -> int:
        """Return a number that changes with each new update; 0 where there is none."""
        with suppress(OSError):
            return (self.path / DESCRIPTION_PATH).stat().st_ino
        return 0

    def holds(self, sha256: str) -> bool:
        """Tell whether a target's file came with it."""
        return (self.path / "targets" / sha256).is_file()

    def unpack(self, update: UpdateFile, *, reserve_bytes: int) -> Path:
        """Write an update beside its place, durably, and return where; ``reserve_bytes`` of the disk stay free.

        Raises:
            DiskFullError: there is no room.
            StorageError: the disk does not take it.
        """
        needed = sum(member.size_bytes for member in update.members.values()) + reserve_bytes
        try:
            shutil.rmtree(self._aside, ignore_errors=True)
            free = shutil.disk_usage(self._aside.parent).free
            if free < needed:
                raise DiskFullError(
                    f"cannot take the update in: {free} bytes are free, {needed} are needed",
                    hint="free space on the device",
                )
            for member in update.members.values():
                target = self._aside / member.path
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("xb") as stream:
                    for piece in update.pieces(member):
                        stream.write(piece)
                    stream.flush()
                    os.fsync(stream.fileno())
            for folder in (path for path in self._aside.rglob("*") if path.is_dir()):
                sync_folder(folder)
            sync_folder(self._aside)
        except OSError as error:
            shutil.rmtree(self._aside, ignore_errors=True)
            raise storage_failed("take the update in", error) from error
        return self._aside

    def accept(self) -> None:
        """Put what was unpacked in the place of what was there.

        Raises:
            StorageError: it cannot be moved.
        """
        try:
            shutil.rmtree(self.path, ignore_errors=True)
            self._aside.rename(self.path)
            sync_folder(self.path.parent)
        except OSError as error:
            raise storage_failed("take the update in", error) from error

    def drop_unpacked(self) -> None:
        """Forget what was unpacked and not accepted."""
        shutil.rmtree(self._aside, ignore_errors=True)

    def discard(self) -> None:
        """Forget the update: the server has spoken since, or it was refused."""
        shutil.rmtree(self.path, ignore_errors=True)


class FolderConnection:
    """An unpacked update in the place of the server."""

    server_url = "https://update.invalid"

    def __init__(self, folder: Path, device: str) -> None:
        self._folder = folder
        self._director = f"/director/{device}/metadata/"
        self._device = device

    def read(self, path: str) -> tuple[int, Iterator[bytes]]:
        """Return a status and a file's bytes, as the server would for a path."""
        try:
            stream = self._file(path).open("rb")
        except OSError:
            return _NOT_FOUND, iter(())
        return _OK, _pieces(stream)

    @contextmanager
    def get(self, path: str, *, first_byte: int = 0) -> Iterator["FileAnswer"]:
        """Open a file in the way of a GET request; ``first_byte`` is not heeded: a copy is quick."""
        del first_byte
        try:
            stream = self._file(path).open("rb")
        except OSError:
            yield FileAnswer(_NOT_FOUND, None)
            return
        with stream:
            yield FileAnswer(_OK, stream)

    def _file(self, path: str) -> Path:
        if path.startswith(self._director):
            return self._folder / "director" / self._device / path.removeprefix(self._director)
        if path.startswith("/image/targets/"):  # its last part is the hash and the name
            return self._folder / "targets" / path.rpartition("/")[2].partition(".")[0]
        return self._folder / "image" / path.removeprefix("/image/metadata/")


class FileAnswer:
    """A file as an answer to a request."""

    def __init__(self, status: int, stream: BinaryIO | None) -> None:
        self.status = status
        self._stream = stream

    def read1(self, amount: int, *, decode_content: bool = False) -> bytes:
        """Return the next bytes."""
        del decode_content
        return b"" if self._stream is None else self._stream.read(amount)


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    with stream:
        while piece := stream.read(_PIECE_BYTES):
            yield piece
