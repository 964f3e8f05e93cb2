# SPDX-License-Identifier: Apache-2.0
"""Confining a child process, and saying honestly how far that goes on this kernel."""

import os
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from device_agent.sandbox import landlock, seccomp

#: What an interpreter and its libraries read of a system while they run.
_SYSTEM = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/dev/null",
    "/dev/urandom",
    "/proc/self",
    "/proc/cpuinfo",
    "/proc/meminfo",
    "/proc/sys/vm/overcommit_memory",
    "/sys/devices/system/cpu",
)
_OURS = ("device_agent", "edgefleet")


class Protection(NamedTuple):
    """What keeps a child in its place: Landlock's version (0: none), and a filter of system calls."""

    landlock_version: int
    system_calls: bool

    @property
    def whole(self) -> bool:
        """Tell whether nothing is missing."""
        return bool(self.landlock_version) and self.system_calls

    @property
    def missing(self) -> tuple[str, ...]:
        """Say what a child can do that it should not."""
        said = []
        if not self.landlock_version:
            said.append("the kernel has no Landlock: a model could read any file that the agent may read")
        if not self.system_calls:
            said.append("the kernel takes no filter of system calls here: a model could open connections")
        return tuple(said)


def available() -> Protection:
    """Ask the kernel what it has, without confining anything."""
    return Protection(landlock.version(), seccomp.available())


def confine(readable: Sequence[str | Path], *, devices: Sequence[str | Path] = ()) -> Protection:
    """Let this process read its runtime's folders and ``readable``, and write nothing, connect nowhere, start nothing.

    To be called while the process has one thread. With ``devices``, accelerators that may be opened to be written, only
    Landlock keeps it from writing files. Return what holds from now on.
    """
    version = landlock.keep_to([*_runtime(), *readable], devices)
    return Protection(version, seccomp.refuse_calls(may_write=bool(devices)))


def _runtime() -> list[str | Path]:
    """Return where Python, its packages and the system's libraries lie; never a whole prefix, which may hold data."""
    paths = sysconfig.get_paths()
    packages = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    ours = [Path(sys.modules[name].__file__ or "").parent for name in _OURS if name in sys.modules]
    return [*_SYSTEM, *packages, *_wheel_sets(), sysconfig.get_config_var("LIBDIR") or "/lib", *ours]


def _wheel_sets() -> list[str | Path]:
    """Return the folders, from which the launcher started this software, that hold packages and nothing else."""
    entries = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [entry for entry in entries if entry and any(Path(entry).glob("*.dist-info"))]
