# SPDX-License-Identifier: Apache-2.0
"""Bundles by HTTPS: resumed where they stopped, never longer than the signed length, checked before they are used."""

import errno
import os
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, BinaryIO, Protocol
from urllib.parse import quote

from device_agent.core.orders.release_orders import TargetFile
from device_agent.core.pace import Pace
from device_agent.errors import CorruptDownloadError, DiskFullError, storage_failed
from edgefleet.contracts.canonical import sha256_file
from edgefleet.contracts.errors import UnreachableError

#: A server that stays below this over a window is left, and asked again from there: another way may be better.
SLOWEST_BYTES_S = 200.0
WINDOW_S = 60.0

_PIECE_BYTES = 256 << 10
_OK, _PARTIAL, _RANGE = 200, 206, 416


class Answer(Protocol):
    """An answer to a request, whose body is read as it comes."""

    status: int

    def read1(self, amount: int, *, decode_content: bool) -> bytes:
        """Return the next bytes of the body; none at its end."""


class FileSource(Protocol):
    """Where files come from: the server, or an update that a person brought."""

    def get(self, path: str, *, first_byte: int = 0) -> AbstractContextManager[Any]:
        """Open the answer (:class:`Answer`) to a request for a path, from ``first_byte`` on."""


class BundleDownloads:
    """Fetches one bundle after another into a ``<sha256>.part`` file; ``reserve_bytes`` of the disk stay free."""

    def __init__(
        self,
        folder: Path,
        connection: FileSource,
        *,
        reserve_bytes: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folder = folder
        self._connection = connection
        self._reserve_bytes = reserve_bytes
        self._monotonic = monotonic

    def fetch(self, target: TargetFile, cancelled: Callable[[], bool]) -> Path:
        """Return a complete file with the target's length and hash; a cancelled one stays to be resumed.

        Raises:
            CorruptDownloadError: the file has another hash, or is longer; it was dropped.
            DiskFullError: there is no room; what was fetched is dropped, so that space is free.
            StorageError: the disk does not take it.
            UnreachableError: the server does not answer, is too slow, or has no such file; what came stays.
        """
        part = self._folder / f"{target.sha256}.part"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._drop_others(part)
            self._check_space(part, target)
            self._complete(part, target, cancelled)
            return self._checked(part, target)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                part.unlink(missing_ok=True)
            raise storage_failed(f"download '{target.path.rpartition('/')[2]}'", error) from error

    def _drop_others(self, part: Path) -> None:
        """Delete what is left of downloads that were given up."""
        for path in self._folder.glob("*.part"):
            if path != part:
                path.unlink(missing_ok=True)

    def _check_space(self, part: Path, target: TargetFile) -> None:
        there = part.stat().st_size if part.exists() else 0
        free = shutil.disk_usage(self._folder).free
        needed = target.size_bytes - there + self._reserve_bytes
        if free < needed:
            raise DiskFullError(
                f"cannot download '{target.path.rpartition('/')[2]}': {free} bytes are free, {needed} are needed",
                hint="free space on the device; the agent tries again by itself",
            )

    def _complete(self, part: Path, target: TargetFile, cancelled: Callable[[], bool]) -> None:
        with part.open("ab") as stream:
            if stream.tell() > target.size_bytes:
                stream.truncate(0)
                stream.seek(0)
            if stream.tell() < target.size_bytes:
                self._append(stream, target, cancelled)
            stream.flush()
            os.fsync(stream.fileno())

    def _append(self, stream: BinaryIO, target: TargetFile, cancelled: Callable[[], bool]) -> None:
        with self._connection.get(f"/image/targets/{quote(target.path)}", first_byte=stream.tell()) as response:
            if response.status == _OK:
                stream.truncate(0)  # the server does not resume
                stream.seek(0)
            elif response.status == _RANGE:
                stream.truncate(0)
                return
            elif response.status != _PARTIAL:
                raise UnreachableError(
                    f"the server answered {response.status} to a request for '{target.path}'",
                    hint="check the server's log; the agent tries again by itself",
                )
            self._copy(response, stream, target.size_bytes, cancelled)

    def _copy(self, response: Answer, stream: BinaryIO, limit_bytes: int, cancelled: Callable[[], bool]) -> None:
        """Append the body as it comes, so that what came before a break stays.

        One byte more than the signed length is taken, so that a longer file is seen.
        """
        pace = Pace(SLOWEST_BYTES_S, WINDOW_S, began=self._monotonic())
        while piece := response.read1(_PIECE_BYTES, decode_content=False):
            left = limit_bytes + 1 - stream.tell()
            stream.write(piece[:left])
            if cancelled() or len(piece) >= left:
                return
            if pace.too_slow(len(piece), self._monotonic()):
                raise UnreachableError(
                    f"the download comes with less than {SLOWEST_BYTES_S:g} bytes a second",
                    hint="the agent goes on from there by itself",
                )

    def _checked(self, part: Path, target: TargetFile) -> Path:
        size_bytes = part.stat().st_size
        if size_bytes < target.size_bytes:
            raise UnreachableError(
                f"the download stopped at {size_bytes} of {target.size_bytes} bytes",
                hint="the agent goes on from there by itself",
            )
        found = sha256_file(part) if size_bytes == target.size_bytes else "too-long"
        if found != target.sha256:
            part.unlink()
            raise CorruptDownloadError(
                f"'{target.path.rpartition('/')[2]}' came with another SHA-256 than both repositories say",
                hint="it is fetched again by itself; if this stays, check proxy and server",
            )
        return part
