# SPDX-License-Identifier: Apache-2.0
"""What a process did to the files below one folder, read from its system calls."""

import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from edgefleet.contracts.errors import EdgeFleetError
from fleet_emulation.power_loss.tracing import Call, unescaped

#: Shared memory that lies in a file: it is not meant to survive, and is not written by system calls.
NOT_KEPT = "-shm"
_STRING = r'"((?:\\x[0-9a-f]{2})*)"'
_FILE = re.compile(r"^(\d+)<([^>]*)>")
_STRINGS = re.compile(_STRING)
_SPLIT = re.compile(r",\s*")


class UnknownCallError(EdgeFleetError):
    """A process changed a file in a way that is not modelled."""

    code = "unknown-call"


class Made(NamedTuple):
    """A file was made, or (``emptied``) opened and emptied; ``folder``: a folder was made."""

    path: str
    folder: bool = False


class Linked(NamedTuple):
    """A symbolic link was made."""

    path: str
    to: str


class Written(NamedTuple):
    """Bytes were written from ``offset`` on."""

    path: str
    offset: int
    data: bytes


class Resized(NamedTuple):
    """A file was cut, or grown with zeros."""

    path: str
    size: int


class Renamed(NamedTuple):
    """A name was changed; what had the new one is gone."""

    path: str
    to: str


class Removed(NamedTuple):
    """A name was removed."""

    path: str


class Synced(NamedTuple):
    """A file's data, or a folder's names, were made durable."""

    path: str


class Told(NamedTuple):
    """A promise was made."""

    line: bytes


Change = Made | Linked | Written | Resized | Renamed | Removed | Synced | Told
_PATHS = re.compile(r"<([^>]*)>")
_MAKES = re.compile(r"O_(CREAT|TRUNC)")


def touches(call: Call, root: str) -> bool:
    """Tell whether a call was made to change what is below ``root``, or to make it durable, whatever came of it."""
    if call.name == "lseek" or (call.name in ("openat", "open") and not _MAKES.search(call.arguments)):
        return False
    return any(path.startswith(f"{root}/") or path == root for path in _paths(call))


class ChangeReader:
    """Turns calls into changes below ``root``, with paths relative to it; what is appended to ``promises`` is told.

    ``sizes`` are those of the files that are there before, in bytes.
    """

    def __init__(self, root: str, promises: str, sizes: dict[str, int]) -> None:
        self._root = root
        self._promises = promises
        self._sizes = dict(sizes)
        self._at: dict[tuple[int, int], int] = {}
        self._appending: set[tuple[int, int]] = set()

    def read(self, call: Call) -> list[Change]:
        """Return what a call changed.

        Raises:
            UnknownCallError: it changed something in a way that is not modelled.
        """
        if call.result < 0:
            return []
        reader = getattr(self, f"_{call.name}", None)
        if reader is not None:
            return [change for change in reader(call) if change is not None]
        if call.name not in ("sync", "syncfs") and touches(call, self._root):
            raise UnknownCallError(
                f"the system call '{call.name}' on '{_paths(call)[0]}' is not modelled", hint="use another rig for it"
            )
        return []

    # ------------------------------------------------------------------ one method a system call

    def _openat(self, call: Call) -> Iterator[Change]:
        descriptor = (call.pid, call.result)
        self._at[descriptor] = 0
        self._appending.discard(descriptor)
        if "O_APPEND" in call.arguments:
            self._appending.add(descriptor)
        path = self._inside(call.path)
        if path is None or not _MAKES.search(call.arguments):
            return
        if path not in self._sizes:
            self._sizes[path] = 0
            yield Made(path)
        elif "O_TRUNC" in call.arguments:
            yield self._resized(path, 0)

    def _lseek(self, call: Call) -> Iterator[Change]:
        self._at[call.pid, _descriptor(call)[0]] = call.result
        yield from ()

    def _write(self, call: Call) -> Iterator[Change]:
        number, full = _descriptor(call)
        data = _strings(call)[0][: call.result]
        if full == self._promises:
            yield Told(data.rstrip(b"\n"))
            return
        path = self._inside(full)
        if path is not None:
            descriptor = (call.pid, number)
            offset = self._sizes.get(path, 0) if descriptor in self._appending else self._at.get(descriptor, 0)
            self._at[descriptor] = offset + len(data)
            yield self._written(path, offset, data)

    def _pwrite64(self, call: Call) -> Iterator[Change]:
        path = self._inside(_descriptor(call)[1])
        if path is not None:
            yield self._written(path, _last_number(call), _strings(call)[0][: call.result])

    def _ftruncate(self, call: Call) -> Iterator[Change]:
        path = self._inside(_descriptor(call)[1])
        if path is not None:
            yield self._resized(path, _last_number(call))

    def _fsync(self, call: Call) -> Iterator[Change]:
        path = self._inside(_descriptor(call)[1])
        if path is not None:
            yield Synced(path)

    _fdatasync = _fsync

    def _rename(self, call: Call) -> Iterator[Change]:
        old, new = (self._inside(text.decode(errors="surrogateescape")) for text in _strings(call)[:2])
        if old is not None and new is not None:
            self._sizes[new] = self._sizes.pop(old, 0)
            yield Renamed(old, new)

    _renameat = _renameat2 = _rename

    def _unlink(self, call: Call) -> Iterator[Change]:
        path = self._inside(_strings(call)[0].decode(errors="surrogateescape"))
        if path is not None:
            self._sizes.pop(path, None)
            yield Removed(path)

    _unlinkat = _rmdir = _unlink

    def _mkdir(self, call: Call) -> Iterator[Change]:
        path = self._inside(_strings(call)[0].decode(errors="surrogateescape"))
        if path is not None:
            yield Made(path, folder=True)

    _mkdirat = _mkdir

    def _symlink(self, call: Call) -> Iterator[Change]:
        to, where = (text.decode(errors="surrogateescape") for text in _strings(call)[:2])
        path = self._inside(where)
        if path is not None:
            yield Linked(path, to)

    _symlinkat = _symlink

    # ------------------------------------------------------------------ what they share

    def _inside(self, path: str) -> str | None:
        """Return a path relative to the root; None outside of it, and for what is not meant to survive."""
        if path == self._root:
            return "."
        if not path.startswith(f"{self._root}/") or path.endswith(NOT_KEPT):
            return None
        return str(PurePosixPath(path).relative_to(self._root))

    def _written(self, path: str, offset: int, data: bytes) -> Written:
        self._sizes[path] = max(self._sizes.get(path, 0), offset + len(data))
        return Written(path, offset, data)

    def _resized(self, path: str, size: int) -> Resized:
        self._sizes[path] = size
        return Resized(path, size)


def _paths(call: Call) -> list[str]:
    found = [*_PATHS.findall(call.arguments)[:2], *_STRINGS.findall(call.arguments)[:2], call.path]
    return [unescaped(text).decode(errors="surrogateescape") for text in found]


def _descriptor(call: Call) -> tuple[int, str]:
    found = _FILE.match(call.arguments)
    if found is None:
        return int(_SPLIT.split(call.arguments, maxsplit=1)[0]), ""
    return int(found[1]), unescaped(found[2]).decode(errors="surrogateescape")


def _strings(call: Call) -> list[bytes]:
    return [unescaped(text) for text in _STRINGS.findall(call.arguments)]


def _last_number(call: Call) -> int:
    return int(_SPLIT.split(call.arguments.rpartition(">")[2])[-1])
