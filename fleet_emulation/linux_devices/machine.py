# SPDX-License-Identifier: Apache-2.0
"""One arm64 machine in QEMU: its parts, its process, and the two ways in which it comes up.

A booted machine takes seconds; a snapshot of one, taken once and cached, is up in a fraction of one. Its memory is a
file that every later machine maps copy-on-write, so that machines share what they do not change.

The machine has no way to any network but to :mod:`fleet_emulation.linux_devices.network_gate`, and listens on Unix
sockets only, in a private folder. It ends with the process that started it.
"""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edgefleet.contracts.errors import EdgeFleetError, UnreachableError
from fleet_emulation.linux_devices.control import Control
from fleet_emulation.linux_devices.inside.control import GATE, PORT_NAME
from fleet_emulation.linux_devices.programs import program, run_program
from fleet_emulation.linux_devices.qmp import Qmp, connect
from fleet_emulation.processes import Program

QEMU = "qemu-system-aarch64"
_KERNEL_ARGUMENTS = "console=ttyAMA0 quiet loglevel=4 mitigations=off nokaslr audit=0 panic=-1 rdinit=/init"
_KERNEL_ARGUMENTS += " init_on_alloc=0 lsm=landlock hardened_usercopy=off randomize_kstack_offset=off"
_IGNORE_SHARED = [{"capability": "x-ignore-shared", "state": True}]
_NETWORK = "lan"
_CONNECT_S = 20.0
_QUIT_S = 10.0


@dataclass(frozen=True)
class Hardware:
    """What QEMU emulates: a CPU as it names it, its number, and memory."""

    cpu: str
    memory_mib: int
    cores: int


@dataclass(frozen=True)
class Parts:
    """The files of one machine; ``ram`` is written only while a snapshot is made. ``sockets`` has a short path."""

    kernel: Path
    initramfs: Path
    root: Path
    ram: Path
    disk: Path
    reachable: Path
    sockets: Path
    console_log: Path
    qemu_log: Path


def qemu_version() -> str:
    """Return the first line that QEMU says of itself.

    Raises:
        MissingProgramError: it is not installed.
    """
    said = run_program([program(QEMU), "--version"], what="QEMU does not start", limit_s=_CONNECT_S)
    return said.partition("\n")[0].strip()


def arguments(hardware: Hardware, parts: Parts, *, keep_ram: bool) -> list[str]:
    """Return QEMU's arguments; ``keep_ram`` writes the memory into its file, else it is copied on write."""
    memory = f"memory-backend-file,id=ram,size={hardware.memory_mib}M,mem-path={_quoted(parts.ram)}"
    gate_module = "fleet_emulation.linux_devices.network_gate"
    gate = shlex.join([sys.executable, "-m", gate_module, str(parts.reachable), str(parts.sockets / "alive")])
    words = ["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-accel", "tcg"]
    words += ["-machine", "virt,memory-backend=ram", "-object", f"{memory},share={'on' if keep_ram else 'off'}"]
    words += ["-cpu", hardware.cpu, "-smp", str(hardware.cores), "-m", f"{hardware.memory_mib}M"]
    words += ["-kernel", str(parts.kernel), "-initrd", str(parts.initramfs), "-append", _KERNEL_ARGUMENTS]
    words += ["-chardev", f"{_listening('console', parts)},logfile={_quoted(parts.console_log)},logappend=on"]
    words += ["-serial", "chardev:console", "-chardev", _listening("control", parts)]
    words += ["-chardev", _listening("alive", parts)]
    words += ["-chardev", _listening("qmp", parts), "-mon", "chardev=qmp,mode=control"]
    words += _drive("root", parts.root, "readonly=on")
    words += _drive("data", parts.disk, "cache=unsafe")  # a killed QEMU loses nothing that it was given
    words += ["-device", "virtio-serial-device", "-device", f"virtserialport,chardev=control,name={PORT_NAME}"]
    words += ["-netdev", f"user,id={_NETWORK},restrict=on,guestfwd=tcp:{GATE[0]}:{GATE[1]}-cmd:{_quoted(gate)}"]
    words += ["-device", f"virtio-net-device,netdev={_NETWORK},mac=52:54:00:12:34:56"]
    return words


def what_a_snapshot_depends_on(hardware: Hardware) -> list[str]:
    """Return the arguments as they are wherever files lie."""
    nowhere = Parts(*[Path(name) for name in Parts.__dataclass_fields__])
    return [word for word in arguments(hardware, nowhere, keep_ram=True) if "guestfwd" not in word]


def _quoted(text: object) -> str:
    """Return a value of one of QEMU's comma-separated options."""
    return str(text).replace(",", ",,")


def _listening(name: str, parts: Parts) -> str:
    return f"socket,id={name},path={_quoted(parts.sockets / name)},server=on,wait=off"


def _drive(name: str, image: Path, option: str) -> list[str]:
    drive = f"if=none,id={name},format=raw,{option},file={_quoted(image)}"
    return ["-drive", drive, "-device", f"virtio-blk-device,drive={name},serial={name}"]


class Machine:
    """A running QEMU with the host's end of its control port. Start one by :func:`boot` or :func:`restore`."""

    def __init__(self, name: str, command: Sequence[str], parts: Parts) -> None:
        self.name = name
        self._parts = parts
        self.program = Program(name, command, log=parts.qemu_log)
        self._qmp: Qmp | None = None
        self._control: Control | None = None

    @property
    def qmp(self) -> Qmp:
        """QEMU's own control socket."""
        assert self._qmp is not None  # noqa: S101  # open() makes it
        return self._qmp

    @property
    def control(self) -> Control:
        """The way to the program that carries out requests inside."""
        assert self._control is not None  # noqa: S101  # open() makes it
        return self._control

    def open(self) -> None:
        """Connect to QEMU and to what will run inside.

        Raises:
            EdgeFleetError: QEMU ended at its start; the message ends with its last words.
        """
        try:
            self._qmp = Qmp(self._parts.sockets / "qmp", alive=self._runs, limit_s=_CONNECT_S)
            port = connect(self._parts.sockets / "control", alive=self._runs, limit_s=_CONNECT_S)
            self._control = Control(port, self.name)
        except UnreachableError as error:
            said = self.program.last_words() or error.message
            raise EdgeFleetError(
                f"QEMU does not start '{self.name}': {said}", hint=f"see its log: {self._parts.qemu_log}"
            ) from error

    def _runs(self) -> bool:
        return self.program.running

    def wait_until_up(self, *, limit_s: float) -> None:
        """Wait until the machine carries out requests.

        Raises:
            UnreachableError: it does not come up in time, or ended; the message has the console's last line.
        """
        try:
            self.control.ask("run", command=["true"], limit_s=limit_s, grace_s=0.0)
        except UnreachableError as error:
            raise UnreachableError(
                f"{self.name} did not come up within {limit_s:g} s; its console ends with: {self._last_line()}",
                hint=f"see its console: {self._parts.console_log}",
            ) from error

    def _last_line(self) -> str:
        text = self._parts.console_log.read_text(errors="replace") if self._parts.console_log.exists() else ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][:300] if lines else "nothing"

    def connect_network(self, *, up: bool) -> None:
        """Plug the network cable in, or pull it."""
        self.qmp.tell("set_link", name=_NETWORK, up=up)

    def save(self, state: Path) -> None:
        """Stop the machine, write all of it but its memory into a file, and end it; the memory is in its own file."""
        self.qmp.tell("migrate-set-capabilities", capabilities=_IGNORE_SHARED)
        self.qmp.tell("stop")
        self.qmp.tell("migrate", uri=f"exec:cat > {shlex.quote(str(state))}")
        if self.qmp.wait_for("query-migrate", ("completed", "failed", "cancelled")) != "completed":
            raise EdgeFleetError(f"QEMU cannot save {self.name}", hint=f"see its log: {self._parts.qemu_log}")
        self.qmp.tell("quit")
        self.ended(limit_s=_QUIT_S)

    def load(self, state: Path) -> None:
        """Take the state of a machine that was saved, and go on."""
        self.qmp.tell("migrate-set-capabilities", capabilities=_IGNORE_SHARED)
        self.qmp.tell("migrate-incoming", uri=f"exec:cat {shlex.quote(str(state))}")
        self.qmp.wait_for("query-status", ("paused", "postmigrate", "prelaunch"))
        self.qmp.tell("cont")

    def ended(self, *, limit_s: float) -> int:
        """Wait until the machine has switched itself off, kill it if it does not, and return QEMU's exit status."""
        with suppress(subprocess.TimeoutExpired):
            self.program.process.wait(limit_s)
        self._close()
        return self.program.stop(limit_s=0.0)

    def kill(self) -> None:
        """End the machine as a power cut does."""
        self.program.kill()
        self._close()
        self.program.stop()

    def _close(self) -> None:
        if self._control is not None:
            self._control.close()
        if self._qmp is not None:
            self._qmp.close()
        self._control = self._qmp = None


def boot(name: str, hardware: Hardware, parts: Parts) -> Machine:
    """Switch a machine on; its memory goes into its file."""
    return _started(name, [program(QEMU), *arguments(hardware, parts, keep_ram=True)], parts)


def restore(name: str, hardware: Hardware, parts: Parts, state: Path) -> Machine:
    """Bring a machine up from a snapshot of one with the same hardware.

    Raises:
        EdgeFleetError: QEMU does not start, or the snapshot is damaged.
    """
    command = [program(QEMU), *arguments(hardware, parts, keep_ram=False), "-incoming", "defer"]
    machine = _started(name, command, parts)
    try:
        machine.load(state)
    except EdgeFleetError as error:
        machine.kill()
        said = machine.program.last_words() or error.message
        hint = f"delete its folder, '{state.parent}': it is made again"
        raise EdgeFleetError(f"the snapshot of {name} cannot be used: {said}", hint=hint) from error
    except BaseException:  # an interruption leaves no program behind either
        machine.kill()
        raise
    return machine


def _started(name: str, command: Sequence[str], parts: Parts) -> Machine:
    machine = Machine(name, command, parts)
    try:
        machine.open()
    except BaseException:  # whatever it was, no program may be left behind
        machine.kill()
        raise
    return machine
