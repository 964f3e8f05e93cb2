# SPDX-License-Identifier: Apache-2.0
"""A control group of the worker's own (cgroup v2), below the one that the service manager delegated.

Where memory runs out in there, the kernel ends the worker and counts it there: the model is named, and nothing else of
the device suffers. A process may not share a group with groups below it, so the agent moves into one of its own first.
"""

import os
from pathlib import Path

from edgefleet.contracts.errors import EdgeFleetError

_MOUNT = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")
_UNIFIED = "0::/"
_HINT = "run the agent as a systemd service with Delegate=memory, or leave worker_memory_bytes out"


class NoControlGroupError(EdgeFleetError):
    """The system gave the agent no control group to divide."""


class WorkerGroup:
    """Takes workers in, one after another, and tells whether the kernel ended one for its memory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known = self._ended_for_memory()

    def take_in(self, pid: int) -> None:
        """Move a worker into the group; one that has ended already is let go."""
        try:
            (self._folder / "cgroup.procs").write_text(str(pid))
        except OSError:
            return

    def ran_out_of_memory(self) -> bool:
        """Tell whether the kernel has ended a worker for its memory since the last call."""
        before, self._known = self._known, self._ended_for_memory()
        return self._known > before

    def _ended_for_memory(self) -> int:
        try:
            lines = (self._folder / "memory.events").read_text().splitlines()
        except OSError:
            return 0
        return sum(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


def worker_group(*, memory_bytes: int, mount: Path = _MOUNT, own: Path = _OWN) -> WorkerGroup:
    """Divide the agent's control group and return the worker's part, with a limit unless ``memory_bytes`` is 0.

    Raises:
        NoControlGroupError: there is none that is the agent's own, or it may not be divided.
    """
    group = _delegated(mount, own)
    try:
        return _divide(group, memory_bytes)
    except OSError as error:
        raise NoControlGroupError(
            f"the control group '{group}' cannot be divided: {error.strerror or error}", hint=_HINT
        ) from error


def _delegated(mount: Path, own: Path) -> Path:
    try:
        lines = own.read_text().splitlines()
    except OSError:
        lines = []
    name = next((line.removeprefix(_UNIFIED) for line in lines if line.startswith(_UNIFIED)), "")
    group = mount / name
    others = set(_words(group / "cgroup.procs")) - {str(os.getpid())}
    if not name.endswith(".service") or others:  # what belongs to others is left alone, even where we may write
        raise NoControlGroupError("the agent has no control group of a service (cgroup v2) for itself", hint=_HINT)
    if "memory" not in _words(group / "cgroup.controllers"):
        raise NoControlGroupError(f"no memory controller was delegated to '{group}'", hint=_HINT)
    return group


def _divide(group: Path, memory_bytes: int) -> WorkerGroup:
    supervisor, worker = group / "supervisor", group / "worker"
    supervisor.mkdir(exist_ok=True)
    (supervisor / "cgroup.procs").write_text(str(os.getpid()))
    (group / "cgroup.subtree_control").write_text("+memory")
    worker.mkdir(exist_ok=True)
    (worker / "memory.max").write_text(str(memory_bytes) if memory_bytes else "max")
    (worker / "memory.oom.group").write_text("1")
    return WorkerGroup(worker)


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []
