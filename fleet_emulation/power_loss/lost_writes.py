# SPDX-License-Identifier: Apache-2.0
"""Record one update, build every disk that a power cut may leave of it, and examine each.

A file system that drops what was not synced shows one disk for each moment. A model shows, for each moment, all that
the rules of :mod:`fleet_emulation.power_loss.disk_model` allow: the bytes without the name, the name without the bytes,
writes in another order, and torn ones. It needs neither root nor a mount, and each disk can be built again.

That the model carries out what the kernel did is checked: its end must be byte for byte what the update left.
"""

import contextlib
import shutil
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

from edgefleet.contracts.errors import EdgeFleetError
from fleet_emulation.power_loss.changes import NOT_KEPT, ChangeReader, Told
from fleet_emulation.power_loss.children import ask_child, map_children
from fleet_emulation.power_loss.disk_model import DiskModel, Tree
from fleet_emulation.power_loss.kill_sweep import device_in
from fleet_emulation.power_loss.report import Examined, RigReport, report_of
from fleet_emulation.power_loss.subject import Subject
from fleet_emulation.power_loss.tracing import record


class Disk(NamedTuple):
    """A disk after a power cut: its number, where the power was cut, its files, and what was promised before."""

    number: int
    place: str
    tree: Tree
    promises: Sequence[bytes]


def lose_writes(
    subject: Subject, folder: Path, *, every: int = 1, enough: int | None = None, newest_first: bool = False
) -> RigReport:
    """Examine each disk (or each ``every``-th) that a power cut during the update may leave, until ``enough`` did harm.

    ``newest_first`` begins at the end of the update, where most faults show.

    Raises:
        MissingProgramError: strace is not installed.
        EdgeFleetError: the update failed, or did what the model does not know.
    """
    disks: Iterable[Disk] = (disk for disk in disks_of(subject, folder) if disk.number % every == 0)
    if newest_first:
        disks = reversed(list(disks))
    with contextlib.closing(map_children(partial(_examine, subject, folder), disks)) as each:
        return report_of(each, enough=enough)


def disks_of(subject: Subject, folder: Path) -> Iterator[Disk]:
    """Yield each disk that a power cut may leave, once for each set of promises."""
    seen: set[int] = set()
    number = 0
    for place, model, told in _moments(subject, folder):
        for remains in model.remains():
            digest = _digest(remains.tree, told)
            if digest not in seen:
                seen.add(digest)
                yield Disk(number, f"{place}: {remains.what}", remains.tree, told)
                number += 1


def states_of(subject: Subject, folder: Path) -> Iterator[Disk]:
    """Yield the disk after each change of the update, as a mere kill leaves it; the last is the end."""
    for number, (place, model, told) in enumerate(_moments(subject, folder)):
        yield Disk(number, place, model.now(), told)


def _moments(subject: Subject, folder: Path) -> Iterator[tuple[str, DiskModel, tuple[bytes, ...]]]:
    """Record an update and yield the model after each of its changes, with the promises until then."""
    with device_in(subject, folder / "recorded") as data:
        promises = folder.resolve() / "promises"
        promises.unlink(missing_ok=True)
        before = read_tree(data)
        calls = record(lambda: subject.update(data, promises), folder / "log")
        after = read_tree(data)
    sizes = {path: len(node) for path, node in before.items() if isinstance(node, bytes)}
    reader = ChangeReader(str(data), str(promises), sizes)
    model = DiskModel(before)
    told: tuple[bytes, ...] = ()
    for call in calls:
        for change in reader.read(call):
            model.carry_out(change)
            if isinstance(change, Told):
                told = (*told, *change.line.splitlines())
            yield f"after {call.name} {call.number}", model, told
    if model.now() != after:
        differ = sorted(path for path in {*model.now(), *after} if model.now().get(path, 0) != after.get(path, 0))
        raise EdgeFleetError(f"the model differs from the disk in {differ[:5]}", hint="a system call is not modelled")


def read_tree(folder: Path) -> Tree:
    """Return what lies in a folder."""
    tree: dict[str, bytes | str | None] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            tree[name] = str(path.readlink())
        elif path.is_dir():
            tree[name] = None
        elif not name.endswith(NOT_KEPT):
            tree[name] = path.read_bytes()
    return tree


def write_tree(tree: Tree, folder: Path) -> None:
    """Write what lay in a folder into another; where the folder of a file is lost, the file is too."""
    folder.mkdir(parents=True)
    for name, node in sorted(tree.items()):
        path = folder / name
        if not path.parent.is_dir():
            continue
        if node is None:
            path.mkdir()
        elif isinstance(node, str):
            path.symlink_to(node)
        else:
            path.write_bytes(node)


def _examine(subject: Subject, folder: Path, disk: Disk) -> Examined:
    data = folder.resolve() / f"disk-{disk.number}"
    write_tree(disk.tree, data)
    try:
        return Examined(disk.place, ask_child(lambda: subject.examine(data, disk.promises)))
    finally:
        shutil.rmtree(data)


def _digest(tree: Tree, told: tuple[bytes, ...]) -> int:
    """Return a number for a disk and what was promised; Python keeps the hash of bytes that it has hashed before."""
    return hash((tuple(sorted(tree.items(), key=itemgetter(0))), told))
