# SPDX-License-Identifier: Apache-2.0
"""What the service manager and the kernel give the agent: notifications, credentials, a control group, a hard shell."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.adapters.children.control_group import NoControlGroupError, worker_group
from device_agent.adapters.identity.credentials import DEVICE_KEY, device_key
from device_agent.adapters.system.service_manager import ServiceManager
from device_agent.core.heartbeat import Heartbeat

DEPLOY = Path(__file__).parents[2] / "deploy" / "agent"
UNIT = DEPLOY / "edgefleet-agent.service"
EXPOSURE_LIMIT = 1.5
#: Ends a test that fails.
LIMIT_S = 120.0


@pytest.fixture(name="shared_tflite")
def _shared_tflite():
    return Path(__file__).parents[2] / "examples" / "digits" / "v1_float32.tflite"


@pytest.fixture(name="manager_socket")
def _manager_socket(tmp_path):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(LIMIT_S)
        yield listening


def told(manager_socket):
    """The next line that the manager hears."""
    return manager_socket.recv(4096).decode()


def test_the_manager_hears_what_the_agent_says_and_a_status_only_once(manager_socket):
    manager = ServiceManager({"NOTIFY_SOCKET": manager_socket.getsockname()}, pid=7)
    for say in (manager.ready, manager.alive, manager.stopping):
        say()
    for text in ("idle", "idle", "trial\nof x"):
        manager.status(text)
    manager.alive()
    lines = [told(manager_socket) for _ in range(6)]
    assert lines == ["READY=1", "WATCHDOG=1", "STOPPING=1", "STATUS=idle", "STATUS=trial of x", "WATCHDOG=1"]


def test_an_abstract_socket_is_one_too(tmp_path):
    name = f"edgefleet-test-{os.getpid()}-{tmp_path.name}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.settimeout(LIMIT_S)
        ServiceManager({"NOTIFY_SOCKET": f"@{name}"}, pid=7).ready()
        assert listening.recv(100) == b"READY=1"


@pytest.mark.parametrize("address", ["", "/nobody/listens", "relative", "@nobody-listens"])
def test_without_a_manager_nothing_is_said_and_nothing_fails(address):
    manager = ServiceManager({"NOTIFY_SOCKET": address}, pid=7)
    manager.ready()
    manager.status("idle")


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 60.0),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
        ({}, 0.0),
    ],
)
def test_the_watchdog_is_the_one_that_the_manager_set_for_this_process(environment, watchdog_s):
    assert ServiceManager(environment, pid=7).watchdog_s == watchdog_s


def test_the_running_agent_is_ready_alive_and_stopping_in_this_order(
    agent_process, manager_socket, monkeypatch, agent_tools
):
    monkeypatch.setenv("NOTIFY_SOCKET", manager_socket.getsockname())
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    process, _ = agent_process()
    heard = [told(manager_socket)]
    while heard.count("WATCHDOG=1") < 3:
        heard.append(told(manager_socket))
    assert heard[0] == "READY=1"
    assert "STATUS=idle; no model answers" in heard
    process.send_signal(signal.SIGTERM)
    while heard[-1] != "STOPPING=1":  # first of all: the kernel keeps ten messages that nobody took
        heard.append(told(manager_socket))
    assert process.wait(LIMIT_S) == 0


def test_a_hung_worker_ends_the_signs_of_life():
    heartbeat = Heartbeat(watchdog_s=60.0, silence_s=20.0)
    assert heartbeat.beats(0.0)
    heartbeat.worker(0.0, present=True)
    assert heartbeat.beats(60.0)
    assert not heartbeat.beats(60.1)
    assert not heartbeat.beats(75.2)
    heartbeat.heard(75.3)
    assert heartbeat.beats(75.4)
    heartbeat.worker(76.0, present=False)  # its restart is the agent's own business
    assert heartbeat.beats(1000.0)


def test_without_a_watchdog_the_loop_sleeps_as_long_as_it_likes():
    heartbeat = Heartbeat(watchdog_s=0.0, silence_s=20.0)
    assert not heartbeat.beats(0.0)
    assert heartbeat.wait_s(0.0, 5.0) == 5.0


@given(
    watchdog_s=st.floats(0.1, 100.0),
    steps=st.lists(st.tuples(st.floats(0.0, 100.0), st.sampled_from(["heard", "gone", "new", "turn"])), max_size=30),
)
def test_no_beat_is_missed_while_the_worker_answers_and_none_is_given_when_it_hangs(watchdog_s, steps):
    heartbeat, now, beat_at = Heartbeat(watchdog_s=watchdog_s, silence_s=20.0), 0.0, None
    for wanted_s, happening in steps:
        hung = heartbeat.hung(now)
        if heartbeat.beats(now):
            assert not hung
            beat_at = now
        if not hung:
            assert beat_at is not None
            assert now - beat_at <= watchdog_s / 2
        now += heartbeat.wait_s(now, wanted_s)
        if happening == "heard":
            heartbeat.heard(now)
        elif happening in ("gone", "new"):
            heartbeat.worker(now, present=happening == "new")


def test_the_key_is_the_managers_credential_where_there_is_one(tmp_path):
    default = tmp_path / "key.pem"
    assert device_key(default, {}) == default
    assert device_key(default, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == default
    (tmp_path / DEVICE_KEY).write_text("key")
    assert device_key(default, {"CREDENTIALS_DIRECTORY": str(tmp_path)}) == tmp_path / DEVICE_KEY


@pytest.fixture(name="groups")
def _groups(tmp_path):
    """A folder that stands in for the control groups' file system."""
    own = tmp_path / "own"
    own.write_text("1:name=systemd:/x\n0::/system.slice/edgefleet-agent.service\n")
    group = tmp_path / "system.slice" / "edgefleet-agent.service"
    group.mkdir(parents=True)
    (group / "cgroup.controllers").write_text("cpu memory pids\n")
    return tmp_path, own, group


def test_the_worker_gets_a_group_of_its_own_and_its_end_for_memory_is_told_once(groups):
    mount, own, group = groups
    worker = worker_group(memory_bytes=1 << 26, mount=mount, own=own)
    assert (group / "supervisor" / "cgroup.procs").read_text() == str(os.getpid())
    assert (group / "cgroup.subtree_control").read_text() == "+memory"
    assert (group / "worker" / "memory.max").read_text() == "67108864"
    assert (group / "worker" / "memory.oom.group").read_text() == "1"
    worker.take_in(4711)
    assert (group / "worker" / "cgroup.procs").read_text() == "4711"
    assert not worker.ran_out_of_memory()
    (group / "worker" / "memory.events").write_text("low 0\noom 1\noom_kill 1\noom_group_kill 1\n")
    assert worker.ran_out_of_memory()
    assert not worker.ran_out_of_memory()


def test_without_a_limit_the_group_still_names_whose_memory_it_was(groups):
    mount, own, group = groups
    worker_group(memory_bytes=0, mount=mount, own=own)
    assert (group / "worker" / "memory.max").read_text() == "max"


@pytest.mark.parametrize(
    ("line", "controllers", "message"),
    [
        (
            "0::/user.slice/session-1.scope",
            "memory",
            "the agent has no control group of a service (cgroup v2) for itself",
        ),
        ("4:memory:/", "memory", "the agent has no control group of a service (cgroup v2) for itself"),
        (None, "cpu", "no memory controller was delegated to '{0}/system.slice/edgefleet-agent.service'"),
    ],
)
def test_groups_of_others_are_left_alone(groups, line, controllers, message):
    mount, own, group = groups
    if line is not None:
        own.write_text(f"{line}\n")
    (group / "cgroup.controllers").write_text(controllers)
    with pytest.raises(NoControlGroupError) as raised:
        worker_group(memory_bytes=1, mount=mount, own=own)
    assert raised.value.message == message.format(mount)
    assert not (group / "worker").exists()


def test_a_group_with_processes_of_others_is_left_alone(groups):
    mount, own, group = groups
    (group / "cgroup.procs").write_text(f"{os.getpid()}\n1\n")
    with pytest.raises(NoControlGroupError):
        worker_group(memory_bytes=1, mount=mount, own=own)
    assert not (group / "supervisor").exists()


def test_a_group_that_may_not_be_divided_is_one_sentence(groups):
    mount, own, group = groups
    (group / "supervisor").write_text("in the way")
    with pytest.raises(NoControlGroupError) as raised:
        worker_group(memory_bytes=1, mount=mount, own=own)
    assert raised.value.message == f"the control group '{group}' cannot be divided: File exists"


@pytest.fixture(name="systemd_analyze")
def _systemd_analyze():
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("systemd-analyze is not installed")
    return found


def test_the_unit_is_hardened(systemd_analyze):
    command = [systemd_analyze, "security", "--offline=true", "--no-pager", str(UNIT)]
    ran = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", ran.stdout)
    if found is None:
        pytest.skip(f"this systemd-analyze cannot judge a unit offline: {ran.stderr.strip()[:200]}")
    print(found.group(0))  # noqa: T201  a figure of the acceptance
    assert float(found.group(1)) <= EXPOSURE_LIMIT


def test_the_unit_has_no_word_that_systemd_does_not_know(systemd_analyze, tmp_path):
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/usr/bin/edgefleet-agent", "/bin/true"))
    ran = subprocess.run([systemd_analyze, "verify", str(unit)], capture_output=True, text=True)
    assert [line for line in ran.stderr.splitlines() if unit.name in line] == []


def test_code_of_the_start_is_let_go_and_what_is_needed_comes_back(shared_tflite):
    code = (
        "import sys, numpy as np, ai_edge_litert.interpreter as litert\n"
        "from device_agent.process_bounds import let_go_of_start_up_code, rss_bytes\n"
        "model = litert.Interpreter(sys.argv[1]); model.allocate_tensors()\n"
        "def run():\n"
        "    wanted = model.get_input_details()[0]\n"
        "    model.set_tensor(wanted['index'], np.ones(wanted['shape'], 'f'))\n"
        "    model.invoke()\n"
        "    return model.get_tensor(model.get_output_details()[0]['index']).tobytes()\n"
        "before, held = run(), rss_bytes()\n"
        "let_go_of_start_up_code()\n"
        "less = rss_bytes()\n"
        "print(held - less, run() == before, rss_bytes() < held)"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(shared_tflite)], capture_output=True, text=True)
    saved, same, stays = ran.stdout.split()
    assert int(saved) > 2 << 20, ran.stderr
    assert (same, stays) == ("True", "True")


def test_nothing_heavy_is_imported_before_the_worker_is_started():
    heavy = ("ssl", "http.client", "sqlite3", "paho", "tuf", "cryptography", "tarfile", "concurrent.futures", "numpy")
    code = f"import sys, device_agent.field; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"
