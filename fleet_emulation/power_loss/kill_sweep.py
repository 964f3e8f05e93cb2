# SPDX-License-Identifier: Apache-2.0
"""Kill an update at each system call that changes a file, one run after the other, and examine what is left.

This is what a crash, an out-of-memory kill or a watchdog does. The kernel lives on and writes everything: a missing
fsync cannot be seen by it, see :mod:`fleet_emulation.power_loss.lost_writes`.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from fleet_emulation.power_loss.changes import touches
from fleet_emulation.power_loss.children import ask_child, map_children
from fleet_emulation.power_loss.report import Examined, RigReport, report_of
from fleet_emulation.power_loss.subject import Subject
from fleet_emulation.power_loss.tracing import Call, record, run_killed


def kill_sweep(subject: Subject, folder: Path, *, every: int = 1) -> RigReport:
    """Kill at each call (or each ``every``-th), and report; ``folder`` is for what the rig writes.

    Raises:
        MissingProgramError: strace is not installed.
        EdgeFleetError: an update failed by itself.
    """
    calls = calls_of(subject, folder / "recorded")
    return report_of(map_children(partial(_examine_kill, subject, folder), list(enumerate(calls))[::every]))


def calls_of(subject: Subject, folder: Path) -> list[Call]:
    """Run the update once, and return its calls that are to change a file of the device or to make it durable."""
    with device_in(subject, folder) as data:
        calls = record(lambda: subject.update(data, folder / "promises"), folder / "log")
        return [call for call in calls if touches(call, str(data))]


@contextmanager
def device_in(subject: Subject, folder: Path) -> Iterator[Path]:
    """Yield the data folder of a device before its update, and delete everything afterwards."""
    shutil.rmtree(folder, ignore_errors=True)
    data = folder.resolve() / "device"
    data.mkdir(parents=True)
    try:
        subject.prepare(data)
        yield data
    finally:
        shutil.rmtree(folder)


def read_promise_lines(promises: Path) -> list[bytes]:
    """Return the promises that were made, without one that was cut off."""
    data = promises.read_bytes() if promises.exists() else b""
    return data[: data.rfind(b"\n") + 1].splitlines()


def _examine_kill(subject: Subject, folder: Path, numbered: tuple[int, Call]) -> Examined:
    number, call = numbered
    with device_in(subject, folder / f"kill-{number}") as data:
        promises = data.parent / "promises"
        came = run_killed(lambda: subject.update(data, promises), call, data.parent / "log")
        told = read_promise_lines(promises)
        wrong = ask_child(lambda: subject.examine(data, told))
    place = f"call {number}, {call.name} {call.number}"
    return Examined(place, wrong if came else [*wrong, "the run was over before this call came"])
