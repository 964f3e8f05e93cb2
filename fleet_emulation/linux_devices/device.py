# SPDX-License-Identifier: Apache-2.0
"""Linux-class devices for tests: whole arm64 machines, up in about a second, with files, commands and a power plug.

    with linux_device("raspberry-pi-4", reach=[server_port]) as device:
        assert device.run(["uname", "-m"]).stdout == b"aarch64\\n"

A device keeps its own disk (``/data``) over power cuts; everything else of it is read-only or in memory.
"""

import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from edgefleet.contracts.errors import EdgeFleetError, InputError, UnreachableError
from edgefleet.contracts.files import read_file
from edgefleet.contracts.profile import Profile
from fleet_emulation.linux_devices.agent import DeviceAgent, enrolled_agent
from fleet_emulation.linux_devices.control import Answer
from fleet_emulation.linux_devices.machine import QEMU, Hardware, Machine, Parts, restore
from fleet_emulation.linux_devices.profiles import cpu_of, linux_profile
from fleet_emulation.linux_devices.programs import find_program, program
from fleet_emulation.linux_devices.result import Result
from fleet_emulation.linux_devices.root_file_system import find_root_file_system, make_disk, root_file_system
from fleet_emulation.linux_devices.snapshot import DISK_BYTES, Snapshot, snapshot
from fleet_emulation.linux_devices.software import software_for

MEMORY_MIB = 512
#: Two programs of the agent start side by side, on a small machine of ours too.
CORES = 2
_START_S = 30.0
_SHUT_DOWN_S = 30.0
_FILE_S = 60.0
_ENTROPY_BYTES = 64


class Started(NamedTuple):
    """A program that runs on a device; ``first_line`` is what it said when it was ready."""

    pid: int
    first_line: bytes


class LinuxDevice:
    """One device. ``folder`` holds its disk, what it says on its console, and QEMU's log; see :func:`linux_device`."""

    def __init__(self, profile: Profile, hardware: Hardware, snapshot: Snapshot, parts: Parts) -> None:
        self.profile = profile
        self.hardware = hardware
        self.parts = parts
        self.name = f"the emulated {profile.id}"
        self._snapshot = snapshot
        self._machine: Machine | None = None
        self._ports: list[int] = []
        self._agents: list[DeviceAgent] = []

    @property
    def on(self) -> bool:
        """Tell whether the device runs."""
        return self._machine is not None and self._machine.program.running

    @property
    def pid(self) -> int:
        """The process id of its QEMU."""
        return self._running().program.pid

    @property
    def console(self) -> Path:
        """What the device said on its console, power cycles one after another."""
        return self.parts.console_log

    @property
    def console_socket(self) -> Path:
        """A Unix socket that is the device's console, with a shell, for one at a time."""
        return self.parts.sockets / "console"

    def start(self) -> None:
        """Switch the device on: from the snapshot, with a clock and a randomness of its own, and its own disk.

        Raises:
            EdgeFleetError: QEMU does not start.
            UnreachableError: the device does not come up.
        """
        if self.on:
            raise InputError(f"{self.name} is on already", hint="cut its power or shut it down first")
        self._let_go()
        self._machine = restore(self.name, self.hardware, self.parts, self._snapshot.state)
        try:
            self._machine.wait_until_up(limit_s=_START_S)
            self._ask("wake", os.urandom(_ENTROPY_BYTES), unix_s=time.time(), limit_s=_START_S)
            for port in self._ports:
                self._ask("reach", port=port, limit_s=_START_S)
        except BaseException:  # whatever it was, no program may be left behind
            self.cut_power()
            raise

    def cut_power(self) -> None:
        """End the device at once, by SIGKILL; what it had not yet written to its disk is lost."""
        if self._machine is not None:
            self._machine.kill()
            self._machine = None

    def shut_down(self) -> None:
        """Let the device end its programs, write everything to its disk and switch itself off.

        Raises:
            UnreachableError: it does not; then its power is cut.
        """
        machine = self._running()
        with suppress(UnreachableError):  # its last answer may not come any more
            machine.control.ask("power-off", limit_s=0.0)
        status = machine.ended(limit_s=_SHUT_DOWN_S)
        self._machine = None
        if status != 0:
            raise UnreachableError(
                f"{self.name} did not switch itself off within {_SHUT_DOWN_S:.0f} s",
                hint=f"see its console: {self.console}",
            )

    def run(
        self,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        environment: Mapping[str, str] | None = None,
        user: str | None = None,
        limit_s: float = 60.0,
    ) -> Result:
        """Run a command on the device to its end; it has no shell unless the command names one.

        Raises:
            InputError: there is no such program on the device.
            UnreachableError: it takes longer than ``limit_s`` (then it is ended), or the device is off.
        """
        words = {"command": list(command), "environment": dict(environment or {}), "user": user}
        answer = self._ask("run", stdin, limit_s=limit_s, **words)
        out_bytes = answer.message["out_bytes"]
        return Result(answer.message["status"], answer.payload[:out_bytes], answer.payload[out_bytes:])

    def start_program(
        self, command: Sequence[str], *, log: str, user: str | None = None, limit_s: float = 60.0
    ) -> Started:
        """Start a program on the device and wait for its first line; what it says on standard error goes to ``log``.

        Raises:
            UnreachableError: it says nothing in time (then it is ended).
        """
        answer = self._ask("start", command=list(command), log=log, user=user, limit_s=limit_s)
        return Started(answer.message["pid"], answer.payload)

    def end_program(self, pid: int, *, number: int, limit_s: float = 30.0) -> int:
        """Send a signal to a program that was started, wait for its end, and return its exit status."""
        return int(self._ask("end", pid=pid, signal=number, limit_s=limit_s).message["status"])

    def put(self, source: Path | bytes, target: str, *, mode: int = 0o644) -> None:
        """Write a file on the device; ``/data`` is its disk, ``/tmp`` and ``/run`` are in memory."""
        data = source if isinstance(source, bytes) else read_file(source, "the file", hint="check the path")
        self._ask("put", data, path=target, mode=mode, limit_s=_FILE_S)

    def get(self, source: str) -> bytes:
        """Return a file of the device's.

        Raises:
            InputError: it cannot be read.
        """
        return self._ask("get", path=source, limit_s=_FILE_S).payload

    def reach(self, port: int) -> None:
        """Let the device find a service of this machine's 127.0.0.1 at its own 127.0.0.1, at the same port."""
        if port not in self._ports:
            self._ports.append(port)
        self.parts.reachable.write_text("".join(f"{port}\n" for port in self._ports))
        if self.on:
            self._ask("reach", port=port, limit_s=_START_S)

    def network(self, *, up: bool) -> None:
        """Plug the network cable in, or pull it: packets vanish and nobody is told."""
        self._running().connect_network(up=up)

    def exchange(self, application: int, socket_path: str, frame: bytes, *, limit_s: float) -> bytes:
        """Pass an application's request on to a local socket of the device; an empty one ends its connection."""
        return self._ask("ask", frame, application=application, socket=socket_path, limit_s=limit_s).payload

    def agent(
        self, ticket: Path, *, time_scale: float = 1.0, settings: Mapping[str, float | str] | None = None
    ) -> DeviceAgent:
        """Enrol the real agent with a ticket, start it, and return it; ``settings`` are those of its TOML file.

        Raises:
            EdgeFleetError: it cannot enrol, or does not start.
        """
        socket = self.parts.sockets / f"application-{len(self._agents)}"
        agent = enrolled_agent(self, ticket, socket, time_scale=time_scale, settings=settings or {})
        self._agents.append(agent)
        return agent

    def close(self) -> None:
        """Cut the power, and hang up on applications."""
        self.cut_power()
        for agent in self._agents:
            agent.close()

    def _ask(self, do: str, payload: bytes = b"", *, limit_s: float, **fields: Any) -> Answer:
        answer = self._running().control.ask(do, payload, limit_s=limit_s, **fields)
        if "error" not in answer.message:
            return answer
        named: str = " ".join(fields.get("command", ())) or fields.get("path", "")
        what = named or do
        if answer.message.get("late"):
            raise UnreachableError(
                f"'{what}' takes longer than {limit_s:g} s on {self.name}",
                hint="give it more time, or see what it waits for",
            )
        raise InputError(
            f"{self.name} cannot do '{what}': {answer.message['error']}", hint="see what its root file system has"
        )

    def _running(self) -> Machine:
        if self._machine is None or not self._machine.program.running:
            raise UnreachableError(f"{self.name} is off", hint=f"see its console: {self.console}")
        return self._machine

    def _let_go(self) -> None:
        """Forget a machine that ended by itself."""
        if self._machine is not None:
            self._machine.kill()
            self._machine = None


@contextmanager
def linux_device(
    profile: str | Profile = "raspberry-pi-4",
    *,
    folder: Path | None = None,
    memory_mib: int = MEMORY_MIB,
    cores: int = CORES,
    reach: Sequence[int] = (),
    limit_s: float = 120.0,
) -> Iterator[LinuxDevice]:
    """Yield a device that is on, and leave no process behind.

    It also ends with the thread that entered here (the kernel counts threads as parents), so enter in one that stays.
    ``folder`` is its own, and new or left by a device before it, whose disk it then has; without one it has a temporary
    folder. ``reach`` lists the ports of this machine's 127.0.0.1 that it finds at its own. The first device of its kind
    boots, within ``limit_s``; where there is no root file system either, that is made first.

    Raises:
        MissingProgramError: QEMU or another program is not installed.
        UnreachableError: there is no root file system and no network, or the device does not come up.
        EdgeFleetError: the profile is of no arm64 Linux device; or QEMU does not start.
    """
    facts = linux_profile(profile)
    program(QEMU)
    root = root_file_system()
    hardware = Hardware(cpu=cpu_of(facts), memory_mib=memory_mib, cores=cores)
    taken = snapshot(root, hardware, limit_s=limit_s)
    with ExitStack() as cleaned:
        home = folder or Path(cleaned.enter_context(tempfile.TemporaryDirectory(prefix="edgefleet-device-")))
        home.mkdir(parents=True, exist_ok=True)
        sockets = Path(cleaned.enter_context(tempfile.TemporaryDirectory(prefix="ef-")))
        parts = Parts(
            kernel=root.kernel,
            initramfs=taken.initramfs,
            root=root.image,
            ram=taken.ram,
            disk=home / "disk.ext4",
            reachable=home / "reachable",
            sockets=sockets,
            console_log=home / "console.log",
            qemu_log=home / "qemu.log",
        )
        if not parts.disk.exists():
            unfinished = home / ".disk.part"
            make_disk(software_for(root), unfinished, size_bytes=DISK_BYTES, journal=True)
            unfinished.rename(parts.disk)
        parts.reachable.touch()
        device = LinuxDevice(facts, hardware, taken, parts)
        for port in reach:
            device.reach(port)
        cleaned.callback(device.close)
        device.start()
        yield device


def missing() -> str | None:
    """Return what keeps this machine from running devices, as far as can be told without trying; None if nothing.

    Without a root file system in the cache, one is made where the network allows.
    """
    if find_program(QEMU) is None:
        return f"the program '{QEMU}' is not installed"
    try:
        if find_root_file_system() is not None:
            return None
    except EdgeFleetError as error:
        return error.message
    needed = [name for name in ("apt-get", "dpkg-deb", "mke2fs") if find_program(name) is None]
    return f"the program '{needed[0]}' is not installed, and there is no root file system yet" if needed else None
