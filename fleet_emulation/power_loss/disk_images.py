# SPDX-License-Identifier: Apache-2.0
"""Let an update run on a real ext4, copy the disk at each of its system calls, mount each copy, and examine it.

What the kernel has not yet given to the disk is not in the copy, as in a power cut; mounting the copy replays its
journal. strace stops the update after each call that it makes to a file, for as long as the copy takes: a call, and not
a function of some library, so any program can be cut off like this, in whatever language.

Needs the right to mount (root) and loop devices; what the model of :mod:`.disk_model` allows is more than what ext4
does, so that this rig is there to show that the model is not wrong about ext4, and that ext4's own repair does no harm.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from edgefleet.contracts.errors import EdgeFleetError, MissingProgramError
from fleet_emulation.linux_devices.programs import find_program, run_program
from fleet_emulation.power_loss.children import ask_child, map_children
from fleet_emulation.power_loss.disk_model import PAGE_BYTES
from fleet_emulation.power_loss.kill_sweep import read_promise_lines
from fleet_emulation.power_loss.report import Examined, RigReport, report_of
from fleet_emulation.power_loss.subject import Subject
from fleet_emulation.power_loss.tracing import CALLS, Traced, traced

IMAGE_BYTES = 8 << 20
#: ext4 as a careful attacker mounts it: nothing is written early of its own accord.
_OPTIONS = "loop,commit=3600,noauto_da_alloc"
_LIMIT_S = 30.0
#: What was opened shows at the next call; most calls of these only read.
_OPENING = ("openat", "open")
#: Linux writes what is older than 30 s (vm.dirty_expire_centisecs), which would hide a missing fsync.
_UNTOUCHED_S = 25.0


class TooSlowError(EdgeFleetError):
    """The kernel had time to write what was not synced, so that a copy shows more than a power cut leaves."""

    code = "too-slow"


class Image(NamedTuple):
    """A copy of the disk: its number, the file, and what was promised when it was taken."""

    number: int
    file: Path
    promises: list[bytes]


def missing() -> str | None:
    """Return what keeps this machine from mounting images; None if nothing."""
    for name in ("mke2fs", "mount", "umount", "strace"):
        if find_program(name) is None:
            return f"the program '{name}' is not installed"
    if os.geteuid() != 0:
        return "only root may mount"
    return None if Path("/dev/loop-control").exists() else "there are no loop devices"


def image_disks(subject: Subject, folder: Path, *, every: int = 1, enough: int | None = None) -> RigReport:
    """Examine a copy of the disk after each system call of the update (or each ``every``-th).

    Raises:
        MissingProgramError: what :func:`missing` says.
        EdgeFleetError: the update failed.
    """
    if what := missing():
        raise MissingProgramError(f"disks cannot be imaged: {what}", hint="use the rig 'lost_writes', which needs less")
    with closing(map_children(partial(_examine, subject), _images(subject, folder, every))) as each:
        return report_of(each, enough=enough)


def _images(subject: Subject, folder: Path, every: int) -> Iterator[Image]:
    """Take all copies first: the kernel writes of its own accord after a while, and must not come to that."""
    disk, mounted, promises = folder / "disk.ext4", folder / "mounted", folder / "promises"
    make_image(disk)
    promises.unlink(missing_ok=True)
    with mount(disk, mounted):
        data = mounted / "device"
        data.mkdir()
        subject.prepare(data)
        os.sync()
        taken = list(_copies(subject, data, promises, disk, every))
    yield from taken


def make_image(disk: Path) -> None:
    """Make an empty ext4 in a file.

    Raises:
        EdgeFleetError: mke2fs failed.
    """
    disk.parent.mkdir(parents=True, exist_ok=True)
    with disk.open("wb") as stream:
        stream.truncate(IMAGE_BYTES)
    command = [
        _found("mke2fs"),
        "-q",
        "-t",
        "ext4",
        "-b",
        "1024",
        "-J",
        "size=1",
        "-E",
        "lazy_itable_init=0",
        str(disk),
    ]
    run_program(command, what="mke2fs failed", limit_s=_LIMIT_S)


@contextmanager
def mount(disk: Path, where: Path) -> Iterator[None]:
    """Mount an ext4 image, and replay its journal.

    Raises:
        EdgeFleetError: it cannot be mounted.
    """
    where.mkdir(parents=True, exist_ok=True)
    run_program([_found("mount"), "-t", "ext4", "-o", _OPTIONS, str(disk), str(where)], what="mount", limit_s=_LIMIT_S)
    try:
        yield
    finally:
        run_program([_found("umount"), str(where)], what="umount", limit_s=_LIMIT_S)


def _copies(subject: Subject, data: Path, promises: Path, disk: Path, every: int) -> Iterator[Image]:
    """Yield a copy after each call that changed the disk, or what was promised."""
    stop = f"inject={','.join(f'?{name}' for name in CALLS if name not in _OPENING)}:signal=STOP"
    before: tuple[bytes, list[bytes]] | None = None
    number = 0
    began = time.monotonic()
    with traced(lambda: subject.update(data, promises), ["-e", stop, "-o", "/dev/null"]) as child:
        for _ in _stops(child):
            now = (disk.read_bytes(), read_promise_lines(promises))
            if now != before:
                before = now
                if number % every == 0:
                    yield Image(number, _sparse(now[0], disk.with_name(f"image-{number}.ext4")), now[1])
                number += 1
    if time.monotonic() - began > _UNTOUCHED_S:
        raise TooSlowError(
            f"the copies took longer than {_UNTOUCHED_S:.0f} s: by then the kernel writes of its own accord",
            hint="try again when the machine has less to do",
        )


def _stops(child: Traced) -> Iterator[None]:
    """Yield each time that the child has stopped; it goes on afterwards.

    Raises:
        EdgeFleetError: it failed.
    """
    while True:
        _, status = os.waitpid(child.pid, os.WUNTRACED)
        if not os.WIFSTOPPED(status):
            break
        yield
        os.kill(child.pid, signal.SIGCONT)
    if status != 0:
        raise EdgeFleetError("the update on the imaged disk failed", hint="see its traceback above")


def _sparse(image: bytes, file: Path) -> Path:
    with file.open("wb") as stream:
        for first in range(0, len(image), PAGE_BYTES):
            page = image[first : first + PAGE_BYTES]
            if page.strip(b"\0"):
                stream.seek(first)
                stream.write(page)
        stream.truncate(len(image))
    return file


def _examine(subject: Subject, image: Image) -> Examined:
    where = image.file.with_name(f"mounted-{image.number}")
    with mount(image.file, where):
        wrong = ask_child(lambda: subject.examine(where / "device", image.promises))
    image.file.unlink()
    where.rmdir()
    return Examined(f"image {image.number}", wrong)


def _found(name: str) -> str:
    found = find_program(name)
    if found is None:
        raise MissingProgramError(f"the program '{name}' is not installed", hint="install it, or use 'lost_writes'")
    return found
