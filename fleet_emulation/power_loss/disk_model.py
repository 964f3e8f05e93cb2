# SPDX-License-Identifier: Apache-2.0
"""What a power cut may leave of a folder: a model of a file system that keeps only what it must.

POSIX promises little, and this model promises no more:

* What was written to a file is durable after fsync of that file, and not before. Until then any of its writes may be
  there or not, in any order, whole or torn at a sector; its new length may be there without its bytes (zeros).
* A name that was made, changed or removed is durable after fsync of its folder. Until then the changes of names are
  there up to some point in their order, as journals keep them; and a name may be there before its file's bytes are.
* fsync of a file does not make its name durable. (ext4 and XFS do that too; those are tried by :mod:`.disk_images`.)
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import NamedTuple

from fleet_emulation.power_loss.changes import Change, Linked, Made, Removed, Renamed, Resized, Synced, Told, Written

SECTOR_BYTES = 512
PAGE_BYTES = 4096
#: So many of the newest changes are varied one by one; the ones before had their turn when they were new.
_VARIED = 6

#: What lies at each path: a file's bytes, a link's target, or None for a folder.
Tree = Mapping[str, bytes | str | None]


class Remains(NamedTuple):
    """One tree that a power cut may leave, and in words what became of what was not synced."""

    tree: Tree
    what: str


@dataclass(eq=False)
class _File:
    """A file, whatever its names: what is durable of it, and the writes since."""

    safe: bytes = b""
    pending: list[Written | Resized] = field(default_factory=list)

    def bytes_with(self, writes: list[Written | Resized]) -> bytes:
        data = bytearray(self.safe)
        for write in writes:
            _apply(data, write)
        return bytes(data)


_Node = _File | str | None
_Names = dict[str, _Node]
_Naming = Made | Linked | Renamed | Removed


class _Pending(NamedTuple):
    """A change of a name that is not durable, and what the name is of."""

    change: _Naming
    node: _Node


class DiskModel:
    """Carries out changes, and tells what a power cut would leave now; ``tree`` is durable from the start."""

    def __init__(self, tree: Tree) -> None:
        self._safe: _Names = {path: _File(node) if isinstance(node, bytes) else node for path, node in tree.items()}
        self._now: _Names = dict(self._safe)
        self._pending: list[_Pending] = []

    def carry_out(self, change: Change) -> None:
        """Carry out one change."""
        if isinstance(change, Written | Resized):
            file = self._now[change.path]
            assert isinstance(file, _File)  # noqa: S101  only files are written to
            file.pending.append(change)
        elif isinstance(change, Synced):
            self._sync(change.path)
        elif not isinstance(change, Told):
            made = self._now[change.path] if isinstance(change, Renamed) else _new_node(change)
            self._pending.append(_Pending(change, made))
            _rename_in(self._now, change, made)

    def now(self) -> Tree:
        """Return what programs see, and what a mere kill leaves."""
        return _tree(self._now, _all)

    def remains(self) -> Iterator[Remains]:
        """Yield what a power cut may leave now; some of it more than once."""
        yield Remains(self.now(), "all that was written")
        for kept in sorted({0, *range(max(len(self._pending) - 3, 0), len(self._pending) + 1)}):
            names = self._names_after(kept)
            said = f"{kept} of {len(self._pending)} changes of names"
            yield Remains(_tree(names, _safe), f"{said}, no bytes")
            yield Remains(_tree(names, _zeros), f"{said}, lengths without bytes")
            yield Remains(_tree(names, _all), f"{said}, all bytes")
        yield from self._reordered()

    def _reordered(self) -> Iterator[Remains]:
        """Yield what is left where the newest writes come in another order, or torn."""
        files = [node for node in self._now.values() if isinstance(node, _File) and node.pending]
        writes = [(file, number) for file in files for number in range(len(file.pending))][-_VARIED:]
        for file, number in writes:
            write = file.pending[number]
            variants: dict[str, list[Written | Resized]] = {
                "without": [*file.pending[:number], *file.pending[number + 1 :]],
                "only": [write],
            }
            if isinstance(write, Written):
                variants |= {name: [*file.pending[:number], part] for name, part in _torn(write)}
            for name, kept in variants.items():
                tree = _tree(self._now, _replacing(file, file.bytes_with(kept)))
                yield Remains(tree, f"{name} the write to {write.path} at {write[1]}")

    def _names_after(self, kept: int) -> _Names:
        names = dict(self._safe)
        for change, made in self._pending[:kept]:
            _rename_in(names, change, made)
        return names

    def _sync(self, path: str) -> None:
        node = self._now.get(path)
        if isinstance(node, _File):
            node.safe, node.pending = node.bytes_with(node.pending), []
            return
        later = []
        for pending in self._pending:
            if path in _folders_of(pending.change):
                _rename_in(self._safe, pending.change, pending.node)
            else:
                later.append(pending)
        self._pending = later


_Contents = Callable[[_File], bytes]


def _all(file: _File) -> bytes:
    return file.bytes_with(file.pending)


def _zeros(file: _File) -> bytes:
    """Return a file that has its length, and of what was not synced only zeros."""
    size = len(_all(file))
    return file.safe[:size].ljust(size, b"\0")


def _safe(file: _File) -> bytes:
    return file.safe


def _replacing(file: _File, data: bytes) -> _Contents:
    return lambda other: data if other is file else _all(other)


def _torn(write: Written) -> Iterator[tuple[str, Written]]:
    """Yield a write of which only a part came to the disk."""
    size = len(write.data)
    sector = min(SECTOR_BYTES, size // 2)
    half = size // 2 // SECTOR_BYTES * SECTOR_BYTES or size // 2
    yield "the first sector of", Written(write.path, write.offset, write.data[:sector])
    yield "the first half of", Written(write.path, write.offset, write.data[:half])
    yield "the second half of", Written(write.path, write.offset + half, write.data[half:])


def _apply(data: bytearray, write: Written | Resized) -> None:
    if isinstance(write, Resized):
        del data[write.size :]
        data.extend(bytes(write.size - len(data)))
        return
    data.extend(bytes(max(write.offset - len(data), 0)))
    data[write.offset : write.offset + len(write.data)] = write.data


def _new_node(change: _Naming) -> _Node:
    if isinstance(change, Linked):
        return change.to
    return _File() if isinstance(change, Made) and not change.folder else None


def _rename_in(names: _Names, change: _Naming, made: _Node) -> None:
    """Carry out a change of names; the old one may be missing where an earlier change is."""
    if isinstance(change, Removed | Renamed):
        names.pop(change.path, None)
    if not isinstance(change, Removed):
        names[change.to if isinstance(change, Renamed) else change.path] = made


def _folders_of(change: _Naming) -> set[str]:
    """Return the folders whose sync makes a change durable: of the new name, and of a new folder the folder itself."""
    target = change.to if isinstance(change, Renamed) else change.path
    own = {change.path} if isinstance(change, Made) and change.folder else set()
    return {str(PurePosixPath(target).parent), *own}


def _tree(names: _Names, contents: _Contents) -> Tree:
    return {path: contents(node) if isinstance(node, _File) else node for path, node in names.items()}
