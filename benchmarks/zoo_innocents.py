# SPDX-License-Identifier: Apache-2.0
"""Innocent faults: what befalls a healthy update of the digits example and is nobody's fault.

    python -m benchmarks.zoo_innocents FOLDER

As a program it lets one device with a worker of its own update on the disk that it has, and prints what came of that as
JSON: the fault ``slow disk`` starts it with a library (benchmarks/slow_disk.c) that makes files slow.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.record import ROOT
from benchmarks.zoo import Outcome, Zoo, update
from benchmarks.zoo_device import ZooDevice
from device_agent.adapters.children.admission_process import AdmissionProcess

Array = npt.NDArray[Any]
#: What each read, write and flush of a file takes longer: a worn card, and one that is less so.
SLOW_DISK_US = {"SLOW_READ_US": "200", "SLOW_WRITE_US": "5000", "SLOW_FLUSH_US": "50000"}
WORN_DISK_US = {"SLOW_READ_US": "2000", "SLOW_WRITE_US": "20000", "SLOW_FLUSH_US": "250000"}
#: So many busy processes for each processor there is.
_BUSY_EACH = 2
#: Much more than a digit takes, and less than one that waits for its turn among busy processes.
_BUDGET_US = 2000
Fault = Callable[[Path], Outcome]


def innocent_faults(zoo: Zoo, disk_us: Mapping[str, str] = WORN_DISK_US) -> dict[str, Fault]:
    """Return innocent faults by name: each befalls a healthy update on a device in a folder."""

    def sees(change: Callable[[Array], Array], **which: Any) -> Fault:
        def befall(folder: Path) -> Outcome:
            feed = lambda: [(change(x), label) for x, label in zoo.some(labelled=True, **which)]  # noqa: E731
            return update(zoo.device(folder), zoo.pack(zoo.v5, "2.0.0"), pinned=True, feed=feed)

        return befall

    frozen = zoo.pictures[5][np.newaxis]
    return {
        "inverted input": sees(lambda x: 16.0 - x),
        "dark input": sees(lambda x: x * np.float32(0.15)),
        "frozen input": sees(lambda _: frozen),
        "shifted input": sees(lambda x: np.roll(x, 3, axis=2)),
        "changed class mix": sees(lambda x: x, classes=(8, 9)),
        "slow disk": lambda folder: on_a_slow_disk(folder, disk_us),
        "clock jump": lambda folder: _disturbed(zoo, folder, _jump),
        "busy CPU": lambda folder: _on_a_busy_machine(zoo, folder),
        "battery pulled": lambda folder: _disturbed(zoo, folder, lambda d, n: _again(d, n, cleanly=False)),
        "reboot in a trial": lambda folder: _disturbed(zoo, folder, lambda d, n: _again(d, n, cleanly=True)),
    }


def _disturbed(zoo: Zoo, folder: Path, disturb: Callable[[ZooDevice, int], None]) -> Outcome:
    device = zoo.device(folder)
    rounds: Iterator[int] = iter(range(10_000))
    made = zoo.pack(zoo.v5, "2.0.0")
    feed = lambda: zoo.some(labelled=True)  # noqa: E731
    return update(device, made, pinned=True, feed=feed, between=lambda: disturb(device, next(rounds)))


def _jump(device: ZooDevice, number: int) -> None:
    device.clock.offset_s += (-1) ** number * 3e8


def _again(device: ZooDevice, number: int, *, cleanly: bool) -> None:
    if number % 3 == 1:
        device.stop(cleanly=cleanly)
        device.start()


def _updated(zoo: Zoo, folder: Path, latency_p99_us: int | None = None) -> Outcome:
    """Update a device with processes of its own."""
    device = zoo.worked(folder, admission=AdmissionProcess(deadline_s=120.0))
    try:
        made = zoo.pack(zoo.v5, "2.0.0", latency_p99_us=latency_p99_us)
        return update(device, made, pinned=True, feed=lambda: zoo.some(labelled=True))
    finally:
        device.stop(cleanly=True)


def _on_a_busy_machine(zoo: Zoo, folder: Path) -> Outcome:
    with busy_processes(_BUSY_EACH * (os.cpu_count() or 1)):
        return _updated(zoo, folder, _BUDGET_US)


@contextlib.contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Let processes burn processor time at the usual priority."""
    burning = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for process in burning:
            process.kill()
            process.wait()


def on_a_slow_disk(folder: Path, disk_us: Mapping[str, str]) -> Outcome:
    """Update a device whose agent, worker and admission child all have the slow disk."""
    library = slow_disk(folder)
    environment = os.environ | dict(disk_us) | {"LD_PRELOAD": str(library)}
    command = [sys.executable, "-m", "benchmarks.zoo_innocents", str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=ROOT)
    return Outcome(*json.loads(ran.stdout.splitlines()[-1]))


def slow_disk(folder: Path) -> Path:
    """Compile the library that makes files slow."""
    library = folder / "slow_disk.so"
    source = ROOT / "benchmarks" / "slow_disk.c"
    subprocess.run(["gcc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def lacking(name: str) -> str:
    """Return what this machine lacks for a fault; empty if nothing."""
    return "there is no gcc to make a slow disk with" if name == "slow disk" and not shutil.which("gcc") else ""


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="zoo-") as own:
        print(json.dumps(_updated(Zoo(), Path(own))))
