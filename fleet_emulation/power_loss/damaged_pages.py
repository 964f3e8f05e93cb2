# SPDX-License-Identifier: Apache-2.0
"""Damage each page of each file of a device's memory once, as bad flash does, and examine the device.

Each page becomes zeros, noise, and itself with one bit turned; each file is emptied and deleted too. The devices are
those that a kill leaves at a few moments of an update, and after it.
"""

import random
import shutil
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from fleet_emulation.power_loss.children import ask_child, map_children
from fleet_emulation.power_loss.disk_model import PAGE_BYTES, Tree
from fleet_emulation.power_loss.lost_writes import Disk, states_of, write_tree
from fleet_emulation.power_loss.report import Examined, RigReport, report_of
from fleet_emulation.power_loss.subject import Subject

#: A device cannot do without its key: a new one needs a new enrolment.
UNIQUE = "identity/key.pem"
BUNDLE = ".bundle"
_MOMENTS = 5


class DamageSubject(Subject, Protocol):
    """A subject whose oracle can be told that a file was damaged."""

    def examine_damaged(self, folder: Path, promises: Sequence[bytes]) -> list[str]:
        """Return what is wrong with a device of which one file was damaged."""


class Damage(NamedTuple):
    """One file with something wrong; ``data`` is None where it is gone."""

    path: str
    what: str
    data: bytes | None


def damage_pages(subject: DamageSubject, folder: Path, *, every: int = 1, moments: int = _MOMENTS) -> RigReport:
    """Examine a device for each damage (or each ``every``-th) at some moments of its update.

    Raises:
        MissingProgramError: strace is not installed.
        EdgeFleetError: the update failed.
    """
    return report_of(map_children(partial(_examine, subject, folder), list(_jobs(subject, folder, moments))[::every]))


def damages_of(tree: Tree) -> Iterator[Damage]:
    """Yield each damage of each file but the key."""
    for path, data in sorted(tree.items()):
        if not isinstance(data, bytes) or path == UNIQUE:
            continue
        for number, first in enumerate(range(0, len(data), PAGE_BYTES)):
            page = data[first : first + PAGE_BYTES]
            for name, damaged in _damaged(page, seed=f"{path} {number}"):
                yield Damage(path, f"{name} in page {number}", data[:first] + damaged + data[first + len(page) :])
        yield Damage(path, "emptied", b"")
        yield Damage(path, "deleted", None)


def _damaged(page: bytes, *, seed: str) -> Iterator[tuple[str, bytes]]:
    chance = random.Random(seed)
    bit = chance.randrange(8 * len(page))
    turned = bytearray(page)
    turned[bit // 8] ^= 1 << bit % 8
    variants = {"zeros": bytes(len(page)), "noise": chance.randbytes(len(page)), f"bit {bit} turned": bytes(turned)}
    yield from ((name, data) for name, data in variants.items() if data != page)


def _jobs(subject: Subject, folder: Path, moments: int) -> Iterator[tuple[int, Disk, Damage]]:
    states = list(states_of(subject, folder))
    chosen = [states[len(states) * (number + 1) // moments - 1] for number in range(moments)]
    number = 0
    for state in chosen:
        for damage in damages_of(state.tree):
            yield number, state, damage
            number += 1


def _examine(subject: DamageSubject, folder: Path, job: tuple[int, Disk, Damage]) -> Examined:
    number, state, damage = job
    data = folder.resolve() / f"damaged-{number}"
    tree = {path: node for path, node in state.tree.items() if path != damage.path}
    write_tree(tree if damage.data is None else tree | {damage.path: damage.data}, data)
    # Where a bundle is damaged, going back to the one before is right, whatever was told.
    told = [] if damage.path.endswith(BUNDLE) else state.promises
    try:
        wrong = ask_child(lambda: subject.examine_damaged(data, told))
    finally:
        shutil.rmtree(data)
    return Examined(f"{state.place}: {damage.path}: {damage.what}", [f"{_kind(damage.path)}: {what}" for what in wrong])


def _kind(path: str) -> str:
    """Return a file's name, without the hash that it is named for."""
    name = Path(path)
    return f"{name.parent}/*{name.suffix}" if name.parent.name == "slots" else path
