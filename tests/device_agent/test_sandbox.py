# SPDX-License-Identifier: Apache-2.0
"""What a model can do in its process, tried from inside the real children after they have confined themselves."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from device_agent.adapters.children.worker_process import WorkerProcess
from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.core.identity import Identity
from device_agent.core.serving import AdmissionRequest, ModelRef
from device_agent.field import RunOptions, run
from device_agent.sandbox import confinement, landlock, seccomp
from device_agent.sandbox.confinement import Protection
from device_agent.sandbox.system_calls import AUDIT_ARCH, BY_ARGUMENT, MACHINES, NEVER, WRITING, number
from device_agent.settings import AgentSettings
from edgefleet.contracts.messages import RunningRelease

ATTEMPTS = Path(__file__).with_name("sandbox_attempts.py")
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000


@pytest.fixture
def place(tmp_path, agent_bundles):
    """A key, a slot, and a port that takes connections."""
    if not confinement.available().whole:
        pytest.skip(f"here {confinement.available().missing}")
    key = tmp_path / "identity" / "device.key"
    key.parent.mkdir()
    key.write_bytes(b"secret")
    slot = tmp_path / "slots" / f"{agent_bundles.v1.sha256}.bundle"
    slot.parent.mkdir()
    slot.write_bytes(agent_bundles.v1.data)
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield [str(key), str(slot), str(server.getsockname()[1])]


REFUSED = {
    "read the key": {"EACCES"},
    "read a file of the system": {"EACCES"},
    "read the supervisor's environment": {"EACCES", "EPERM"},
    "write beside the slot": {"EACCES"},
    "write into the slot": {"EACCES"},
    "write for all to read": {"EACCES"},
    "delete the slot": {"EPERM"},
    "rename the slot": {"EPERM"},
    "change the slot's mode": {"EPERM"},
    "open a TCP connection": {"EPERM"},
    "make a Unix socket": {"EPERM"},
    "make a pair of sockets": {"EPERM"},
    "start a program": {"EPERM", "EACCES"},
    "fork": {"EPERM"},
    "signal the supervisor": {"EPERM"},
    "use the kernel's keys": {"EPERM"},
    "load a BPF program": {"EPERM"},
    "use io_uring": {"EPERM"},
    "trace": {"EPERM"},
    "mount": {"EPERM"},
    "clone by the newer call": {"ENOSYS"},
    "infer": {"done"},
}


def assert_confined(come):
    assert come.keys() == REFUSED.keys()
    assert {name: got for name, got in come.items() if got not in REFUSED[name]} == {}


def test_the_worker_runs_its_model_and_cannot_write_connect_read_the_keys_or_start_anything(place):
    ran = subprocess.run([sys.executable, ATTEMPTS, "worker", *place], capture_output=True, text=True)
    assert "Traceback" not in ran.stderr
    assert_confined(json.loads(ran.stdout))


def test_the_admission_child_runs_the_model_and_can_do_nothing_else(place, agent_bundles, agent_tools):
    made = agent_bundles.v1
    release = RunningRelease(name=made.name, version=made.version, bundle_sha256=made.sha256)
    ref = ModelRef(path=place[1], release=release)
    request = AdmissionRequest(model=ref, profile=agent_tools.PROFILE, compat_hash=agent_tools.COMPAT)
    command = [sys.executable, ATTEMPTS, "admission", *place]
    ran = subprocess.run(command, capture_output=True, input=msgspec.json.encode(request))
    assert b"Traceback" not in ran.stderr
    assert_confined(json.loads(msgspec.json.decode(ran.stdout)["detail"]))


def test_what_a_kernel_cannot_do_is_said_and_not_claimed():
    assert Protection(0, system_calls=True).missing == (
        "the kernel has no Landlock: a model could read any file that the agent may read",
    )
    assert Protection(4, system_calls=False).missing == (
        "the kernel takes no filter of system calls here: a model could open connections",
    )
    assert not Protection(0, system_calls=True).whole
    assert Protection(1, system_calls=True).whole


def test_without_landlock_writing_is_refused_all_the_same_and_the_lack_is_told(tmp_path):
    script = (
        "import sys\nfrom device_agent.sandbox import confinement, landlock\n"
        "landlock.version = lambda: 0\n"
        "print(confinement.available().landlock_version, confinement.confine([]).landlock_version)\n"
        "try:\n    open(sys.argv[1], 'w')\nexcept OSError as error:\n    print(error.errno)\n"
    )
    ran = subprocess.run([sys.executable, "-c", script, tmp_path / "file"], capture_output=True, text=True)
    assert (ran.stdout.split(), ran.stderr) == (["0", "0", str(errno.EACCES)], "")


def test_an_unknown_machine_has_no_filter(monkeypatch):
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "host", "6", "1", "riscv64")))
    assert (seccomp.machine(), seccomp.available(), seccomp.refuse_calls()) == (None, False, False)


def test_a_newer_landlock_than_this_code_knows_is_used_as_far_as_it_is_known():
    assert landlock.version() >= 0


def verdict(program, *, machine, call, arguments=(0, 0, 0)):
    """Run a classic BPF program over one system call, as the kernel would."""
    at, accumulator = 0, 0
    for _ in range(len(program) + 1):
        code, if_true, if_false, value = program[at]
        at += 1
        if code == 0x06:
            return value
        if code == 0x20:
            words = {0: call, 4: machine, 16: arguments[0], 24: arguments[1], 32: arguments[2]}
            accumulator = words[value] & 0xFFFFFFFF
        elif code == 0x15:
            at += if_true if accumulator == value else if_false
        elif code == 0x35:
            at += if_true if accumulator >= value else if_false
        elif code == 0x45:
            at += if_true if accumulator & value else if_false
        else:
            raise AssertionError(f"unknown instruction {code:#x}")
    raise AssertionError("the program does not end")


@pytest.mark.parametrize("machine", MACHINES)
def test_the_filter_says_no_to_each_named_call_and_yes_to_the_rest(machine):
    program = seccomp.program(machine, 77, may_write=False)
    arch = AUDIT_ARCH[machine]

    def decide(call, *arguments):
        return verdict(program, machine=arch, call=call, arguments=(*arguments, 0, 0, 0)[:3])

    named = {number(table, name, machine) for table in (NEVER, WRITING) for name in table} - {None}
    assert {decide(call) for call in named} == {_ERRNO | errno.EPERM}
    judged = {number(BY_ARGUMENT, name, machine) for name in BY_ARGUMENT} - {None}
    assert {decide(call) for call in set(range(500)) - named - judged} == {_ALLOW}
    assert verdict(program, machine=arch ^ 1, call=0) == _KILL

    def of(name):
        return number(BY_ARGUMENT, name, machine)

    for name, arguments, expected in [
        ("clone", (0x00010000 | 0x100,), _ALLOW),
        ("clone", (17,), _ERRNO | errno.EPERM),
        ("clone3", (), _ERRNO | errno.ENOSYS),
        ("kill", (77, 9), _ALLOW),
        ("kill", (78, 9), _ERRNO | errno.EPERM),
        ("kill", (0xFFFFFFFF, 9), _ERRNO | errno.EPERM),
        ("tgkill", (77, 78, 6), _ALLOW),
        ("tgkill", (76, 76, 6), _ERRNO | errno.EPERM),
        ("prlimit64", (0,), _ALLOW),
        ("prlimit64", (1,), _ERRNO | errno.EPERM),
        ("ioctl", (0, 0x5412), _ERRNO | errno.EPERM),
        ("ioctl", (0, 0x541C), _ERRNO | errno.EPERM),
        ("ioctl", (0, 0x5401), _ALLOW),
        ("openat", (0, 0, os.O_RDONLY | os.O_CLOEXEC), _ALLOW),
        ("openat", (0, 0, os.O_RDWR), _ERRNO | errno.EACCES),
        ("openat", (0, 0, os.O_CREAT), _ERRNO | errno.EACCES),
        ("openat2", (), _ERRNO | errno.ENOSYS),
    ]:
        assert decide(of(name), *arguments) == expected, (name, arguments)
    if of("open") is not None:
        assert decide(of("open"), 0, os.O_WRONLY) == _ERRNO | errno.EACCES


def test_x32_calls_are_refused_on_x86_64():
    program = seccomp.program("x86_64", 1, may_write=False)
    assert verdict(program, machine=AUDIT_ARCH["x86_64"], call=0x40000000 | 41) == _ERRNO | errno.EPERM


def test_a_worker_with_an_accelerator_may_open_files_to_write_where_landlock_lets_it():
    program = seccomp.program("x86_64", 1, may_write=True)
    assert verdict(program, machine=AUDIT_ARCH["x86_64"], call=257, arguments=(0, 0, os.O_RDWR)) == _ALLOW


def test_a_fresh_devices_slots_are_there_before_its_first_worker_shuts_itself_in(tmp_path, monkeypatch):
    class StartedError(Exception):
        """The worker would start now."""

    def start(_):
        raise StartedError(folder.slots.is_dir())

    folder = DataFolder(tmp_path)
    folder.identity.parent.mkdir()
    folder.write_identity(Identity(server_url="https://127.0.0.1:1", tenant="acme", device="d", profile="linux-x86_64"))
    monkeypatch.setattr(WorkerProcess, "start", start)
    with pytest.raises(StartedError) as started:
        run(RunOptions(data=tmp_path, settings=AgentSettings()), lambda _: None)
    assert started.value.args == (True,)
