# SPDX-License-Identifier: Apache-2.0
"""A whole arm64 machine: commands and files, its plug, its network, and what is left when it is gone."""

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
import pytest

from edgefleet.contracts.errors import EdgeFleetError, InputError, UnreachableError
from edgefleet.runtimes.litert import LiteRtInterpreter
from firmware_profiles.loader import load_profile
from fleet_emulation.linux_devices.device import LinuxDevice, linux_device
from fleet_emulation.linux_devices.inference import infer_on
from fleet_emulation.linux_devices.inside.control import GATE
from fleet_emulation.listeners import listeners, with_descendants
from fleet_emulation.rehearsal import wait_until

LIMIT_S = 300.0
CONNECT = """
import socket, sys
with socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=float(sys.argv[3])) as there:
    there.sendall(b"ping")
    there.shutdown(socket.SHUT_WR)
    print(there.makefile().read())
"""
OWN_A_DEVICE = """
import signal
from fleet_emulation.linux_devices.device import linux_device
with linux_device() as device:
    print(device.pid, flush=True)
    signal.pause()
"""
NUMBERS = "import os; print(os.urandom(16).hex(), open('/proc/sys/kernel/random/boot_id').read())"


@pytest.fixture(name="service")
def _service() -> Iterator[int]:
    """A service of this machine's that answers in capitals, as long as somebody asks; its port."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with connection, connection.makefile("rb") as asked:
                    connection.sendall(asked.read().upper())

        thread = threading.Thread(target=serve)
        thread.start()
        yield int(listening.getsockname()[1])
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()


def lives(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_it_is_an_arm64_linux_with_the_profiles_cpu(pi: LinuxDevice) -> None:
    assert pi.run(["uname", "-sm"]).stdout == b"Linux aarch64\n"
    assert b"CPU part\t: 0xd08" in pi.run(["cat", "/proc/cpuinfo"]).stdout, "Arm's number of the Cortex-A72"


def test_a_command_gets_its_input_and_gives_status_output_and_errors(pi: LinuxDevice) -> None:
    done = pi.run(["sh", "-c", 'cat; echo "$WHAT" >&2; exit 7'], stdin=b"in\n", environment={"WHAT": "wrong"})
    assert done == (7, b"in\n", b"wrong\n")


def test_long_output_comes_whole(pi: LinuxDevice) -> None:
    data = np.random.default_rng(7).bytes(1 << 20)
    assert pi.run(["cat"], stdin=data).stdout == data


def test_commands_run_side_by_side(pi: LinuxDevice) -> None:
    slow = threading.Thread(target=lambda: pi.run(["sh", "-c", "while [ ! -e /tmp/go ]; do sleep 0.05; done"]))
    slow.start()
    assert pi.run(["touch", "/tmp/go"]).status == 0
    slow.join(LIMIT_S)
    assert not slow.is_alive()


def test_a_command_that_takes_too_long_is_ended_with_all_that_it_started(pi: LinuxDevice) -> None:
    with pytest.raises(UnreachableError) as raised:
        pi.run(["sh", "-c", "sleep 4321 & sleep 4321"], limit_s=0.5)
    assert raised.value.message == (
        "'sh -c sleep 4321 & sleep 4321' takes longer than 0.5 s on the emulated raspberry-pi-4"
    )
    assert b"4321" not in pi.run(["ps"]).stdout


def test_a_program_that_is_not_there_is_named(pi: LinuxDevice) -> None:
    with pytest.raises(InputError) as raised:
        pi.run(["frobnicate", "--now"])
    assert raised.value.message == (
        "the emulated raspberry-pi-4 cannot do 'frobnicate --now': No such file or directory"
    )


def test_files_go_in_and_out(pi: LinuxDevice, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(range(256)) * 1000)
    pi.put(tmp_path / "file", "/data/files/one", mode=0o755)
    assert pi.get("/data/files/one") == (tmp_path / "file").read_bytes()
    assert pi.run(["stat", "-c", "%a", "/data/files/one"]).stdout == b"755\n"
    with pytest.raises(InputError, match=r"cannot do '/data/none': No such file or directory$"):
        pi.get("/data/none")


def test_its_root_file_system_cannot_be_written(pi: LinuxDevice) -> None:
    assert pi.run(["touch", "/etc/x"]).stderr == b"touch: /etc/x: Read-only file system\n"


def test_its_clock_is_right(pi: LinuxDevice) -> None:
    before = time.time()
    there = float(pi.run(["python3", "-c", "import time; print(time.time())"]).stdout)
    assert before - 2.0 < there < time.time() + 2.0


def test_models_give_the_same_bits_as_on_this_machine(pi: LinuxDevice, shared_models: Path) -> None:
    model = (shared_models / "kws_int8.tflite").read_bytes()
    here = LiteRtInterpreter(model, kernels="reference")
    samples = np.random.default_rng(3).integers(-128, 128, (8, *here.inputs[0].shape)).astype(np.int8)
    (there,) = infer_on(pi, model, [samples], kernels="reference")
    assert there.tobytes() == np.stack([here.invoke([sample])[0] for sample in samples]).tobytes()


def test_it_reaches_a_service_that_it_was_given_and_no_other_address(pi: LinuxDevice, service: int) -> None:
    def asks(host: str, port: int) -> bytes:
        return pi.run(["python3", "-c", CONNECT, host, str(port), "5"]).stdout.strip()

    assert asks("127.0.0.1", service) == b"", "nothing is reached that was not named"
    pi.reach(service)
    assert asks("127.0.0.1", service) == b"PING"
    for host, port in (("10.0.2.2", service), ("10.0.2.3", 53), ("192.0.2.1", 80)):
        assert asks(host, port) == b"", f"QEMU's own network leads to {host}"


def test_the_gate_refuses_a_port_that_was_not_given(pi: LinuxDevice, service: int) -> None:
    knock = f"import socket, struct; s = socket.create_connection({GATE}, 5); s.sendall(struct.pack('<H', {service}))"
    said = pi.run(["python3", "-c", f"{knock}; s.sendall(b'ping'); s.shutdown(1); print(s.recv(9))"])
    assert (said.stdout, said.stderr.splitlines()[-1:]) in [
        (b"b''\n", []),
        (b"", [b"ConnectionResetError: [Errno 104] Connection reset by peer"]),
    ]


def test_a_pulled_cable_lets_nothing_through_until_it_is_plugged_in(pi: LinuxDevice, service: int) -> None:
    pi.reach(service)
    pi.network(up=False)
    try:
        lost = pi.run(["python3", "-c", CONNECT, "127.0.0.1", str(service), "1"])
        assert (lost.stdout, lost.stderr.splitlines()[-1]) == (b"", b"TimeoutError: timed out")
    finally:
        pi.network(up=True)
    assert pi.run(["python3", "-c", CONNECT, "127.0.0.1", str(service), "120"]).stdout == b"PING\n"


def test_no_process_stays_behind_with_a_service_that_never_hangs_up(can_boot: None) -> None:
    connect = (
        "import signal, socket, sys; s = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); s.sendall(b'x')"
    )
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        with linux_device(reach=[port]) as device:
            device.start_program(["sh", "-c", f'echo; python3 -c "{connect}; signal.pause()" {port}'], log="/tmp/log")
            connection, _ = listening.accept()
            reachable = str(device.parts.reachable)
            with connection:
                assert connection.recv(1) == b"x"
                assert len(processes_with(reachable)) == 2, "QEMU and the gate of one connection"
                device.cut_power()
                wait_until(lambda: not processes_with(reachable), "the gate to end", limit_s=LIMIT_S)


def processes_with(word: str) -> list[int]:
    """Return the processes that have a word in their command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            found += [int(path.parent.name)] * (word.encode() in path.read_bytes())
    return found


def test_the_console_is_a_shell_behind_a_socket(pi: LinuxDevice) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as console:
        console.settimeout(LIMIT_S)
        console.connect(str(pi.console_socket))
        console.sendall(b"echo $((6 * 7))\n")
        said = b""
        while b"\n42" not in said:
            said += console.recv(4096)
    wait_until(lambda: b"\n42" in pi.console.read_bytes(), "the answer in the log", limit_s=LIMIT_S)


def test_the_agents_user_can_leave_the_network_there(pi: LinuxDevice) -> None:
    """Admission does; it needs a user namespace, which not every kernel allows."""
    leave = "from device_agent.process_bounds import leave_network; print(leave_network())"
    assert pi.run(["python3", "-c", leave], user="edgefleet").stdout == b"True\n"


def test_it_listens_on_no_port_of_this_machine(pi: LinuxDevice) -> None:
    assert listeners([pi.pid]) == []


def test_two_devices_run_at_once_and_are_strangers(pi: LinuxDevice) -> None:
    with linux_device("raspberry-pi-4") as other:
        assert other.pid != pi.pid
        numbers = [device.run(["python3", "-c", NUMBERS]).stdout.split() for device in (pi, other)]
        assert len({*numbers[0], *numbers[1]}) == 4, "no random number and no boot id comes twice"
        pi.put(b"mine", "/data/whose")
        with pytest.raises(InputError):
            other.get("/data/whose")
        pid = other.pid
    assert not lives(pid)


def test_a_power_cut_loses_what_was_not_on_the_disk_and_nothing_else(can_boot: None, tmp_path: Path) -> None:
    with linux_device(folder=tmp_path / "device") as device:
        device.run(["sh", "-c", "echo kept > /data/kept; sync; echo lost > /data/lost"])
        first, boot = device.pid, device.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout
        device.cut_power()
        assert (device.on, lives(first)) == (False, False)
        with pytest.raises(UnreachableError, match=r"^the emulated raspberry-pi-4 is off$"):
            device.run(["true"])
        device.start()
        assert device.run(["ls", "/data"]).stdout == b"kept\nlost+found\nsoftware\n"
        assert device.run(["cat", "/proc/sys/kernel/random/boot_id"]).stdout != boot, "a power cut is a reboot"
        device.run(["sh", "-c", "echo late > /data/late"])
        device.shut_down()
        assert not device.on
    with linux_device(folder=tmp_path / "device") as again:
        assert again.get("/data/kept") + again.get("/data/late") == b"kept\nlate\n", "a clean end writes everything"


def test_a_device_that_switches_itself_off_is_off_and_starts_again(can_boot: None) -> None:
    with linux_device() as device:
        with contextlib.suppress(UnreachableError):
            device.run(["sh", "-c", "echo b > /proc/sysrq-trigger"])
        wait_until(lambda: not device.on, "the device to be off", limit_s=LIMIT_S)
        device.start()
        assert device.run(["true"]).status == 0


def test_a_device_that_is_on_is_not_started_again(pi: LinuxDevice) -> None:
    with pytest.raises(InputError, match=r"^the emulated raspberry-pi-4 is on already$"):
        pi.start()


def test_a_frozen_device_is_not_waited_for_without_end(can_boot: None) -> None:
    with linux_device() as device:
        os.kill(device.pid, signal.SIGSTOP)
        with pytest.raises(UnreachableError, match=r"does not answer 'run' within 0 s$"):
            device._running().control.ask("run", command=["true"], limit_s=0.1, grace_s=0.1)
        stopped = device.pid
    assert not lives(stopped)


def test_no_device_stays_behind_when_its_owner_is_killed(can_boot: None) -> None:
    with subprocess.Popen([sys.executable, "-c", OWN_A_DEVICE], stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None
        device = int(owner.stdout.readline())
        try:
            assert lives(device)
            owner.kill()
            wait_until(lambda: not lives(device), "the device to end", limit_s=LIMIT_S)
        finally:
            owner.kill()
            with contextlib.suppress(ProcessLookupError):
                os.kill(device, signal.SIGKILL)


def test_a_device_that_does_not_boot_in_time_is_one_sentence_and_no_process(can_boot: None) -> None:
    before = set(with_descendants([os.getpid()]))
    with pytest.raises(UnreachableError) as raised, linux_device(memory_mib=400, limit_s=0.2):
        pytest.fail("it came up in a fifth of a second")
    assert raised.value.message.startswith(
        "an arm64 device with a cortex-a72 did not come up within 0.2 s; its console ends with: "
    )
    assert set(with_descendants([os.getpid()])) <= before


def test_a_cpu_that_qemu_does_not_know_is_one_sentence(can_boot: None) -> None:
    profile = load_profile("raspberry-pi-4")
    unknown = msgspec.structs.replace(profile, emulator=msgspec.structs.replace(profile.emulator, cpu="cortex-z1"))
    with pytest.raises(EdgeFleetError) as raised, linux_device(unknown):
        pytest.fail("there is no such CPU")
    assert re.fullmatch(r"QEMU does not start 'an arm64 device with a cortex-z1': .*cortex-z1.*", raised.value.message)


def test_a_damaged_snapshot_is_one_sentence_and_says_what_to_delete(can_boot: None, tmp_path: Path) -> None:
    with linux_device(folder=tmp_path / "device") as device:
        device.cut_power()
        snapshot = device._snapshot
        damaged = tmp_path / "damaged"
        damaged.mkdir()
        (damaged / "state").write_bytes(snapshot.state.read_bytes()[:5000])
        device._snapshot = type(snapshot)(damaged)
        with pytest.raises(EdgeFleetError) as raised:
            device.start()
    assert raised.value.message.startswith("the snapshot of the emulated raspberry-pi-4 cannot be used: ")
    assert raised.value.hint == f"delete its folder, '{damaged}': it is made again"


@pytest.mark.parametrize(("profile", "part"), [("raspberry-pi-3", b"0xd03"), ("raspberry-pi-5", b"0xd0b")])
def test_each_profile_of_a_board_with_linux_has_its_own_cpu(can_boot: None, profile: str, part: bytes) -> None:
    with linux_device(profile) as device:
        found = device.run(["cat", "/proc/cpuinfo"]).stdout
    assert {line.split()[-1] for line in found.splitlines() if line.startswith(b"CPU part")} == {part}


def test_a_profile_without_an_emulator_is_refused() -> None:
    told = "the profile 'jetson-orin-nano' names no emulator, so nothing stands in for its cortex-a78ae"
    with pytest.raises(InputError, match=f"^{told}$"), linux_device("jetson-orin-nano"):
        pytest.fail("there is nothing to start")


@pytest.mark.parametrize("profile", ["mps2-an386", "linux-x86_64"])
def test_a_profile_of_another_kind_is_refused(profile: str) -> None:
    architecture = load_profile(profile).cpu.architecture
    told = f"the profile '{profile}' is of no arm64 Linux device: its CPU is {architecture}"
    with pytest.raises(InputError, match=f"^{re.escape(told)}$"), linux_device(profile):
        pytest.fail("it is none")
