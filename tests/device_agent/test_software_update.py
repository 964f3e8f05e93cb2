# SPDX-License-Identifier: Apache-2.0
"""The agent's own software: verified, tried before it starts, put on trial, committed or taken back by the launcher."""

import hashlib
import importlib.util
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.adapters.system.own_health import OwnHealth
from device_agent.adapters.system.software_slots import SoftwareSlots
from device_agent.core.orders.software_trial import ATTEMPTS, FAILURES, SYSTEM, SoftwareRecord, at_start, on_trial
from device_agent.launcher import FOLDER_VARIABLE, SET_VARIABLE, read_record, write_record
from device_agent.sandbox import landlock
from edgefleet.contracts.errors import BundleError, EdgeFleetError, IncompatibleError, ModelFailedError, StorageError

ROOT = Path(__file__).resolve().parents[2]
A, B = "a" * 64, "b" * 64
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"


def script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Device:
    """A data folder, and the system's own tiny agent with the real launcher."""

    def __init__(self, folder, tools):
        self.data = folder / "data"
        self.tools = tools
        self.library = folder / "library"
        self.folder = folder
        for path, text in tools.tiny_files("system").items():
            (self.library / path).parent.mkdir(parents=True, exist_ok=True)
            (self.library / path).write_text(text)
        agent = ("launcher", "core/__init__", "core/orders/__init__", "core/orders/software_trial")
        for module in (*(f"device_agent/{name}" for name in agent), "edgefleet/__init__", "edgefleet/version"):
            path = self.library / f"{module}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_bytes((ROOT / f"{module}.py").read_bytes())
        self.slots = SoftwareSlots(self.data)

    def install(self, name, does="serves", status=0):
        path, sha256 = self.tools.wheel_set(self.folder / name, self.tools.tiny_files(name, does, status), name=name)
        self.slots.install(path, sha256)
        return sha256

    def start(self, **environment):
        """Start as the service manager does; returns who ran and how it ended."""
        command = [sys.executable, str(self.library / "device_agent" / "launcher.py"), "run", "--data", str(self.data)]
        given = {**os.environ, "PYTHONPATH": str(self.library), "PYTHONSAFEPATH": "1", **environment}
        ran = subprocess.run(command, capture_output=True, text=True, env=given, timeout=300)
        return ran.stdout.strip(), ran.returncode

    def happened(self):
        path = self.data / "software" / "happened"
        return path.read_text() if path.exists() else ""


@pytest.fixture(name="device")
def _device(tmp_path, agent_tools):
    return Device(tmp_path, agent_tools)


def test_a_device_that_never_had_an_update_starts_the_systems_own_and_writes_nothing(device):
    assert device.start() == ("system", 0)
    assert not (device.data / "software" / "record.json").exists()


def test_a_good_set_is_tried_committed_and_replaced_by_the_next(device):
    first = device.install("first")
    assert device.slots.record == SoftwareRecord(trial=first)
    assert device.start() == ("first", 0)
    assert device.start() == ("first", 0)
    assert device.slots.record == SoftwareRecord(active=first, failures=1)
    assert device.happened() == "software-committed"
    second = device.install("second")
    assert [device.start()[0] for _ in range(2)] == ["second", "second"]
    assert device.slots.record.active == second
    device.install("third")
    assert sorted(path.name for path in (device.data / "software" / "sets").iterdir()) == sorted(
        [second, device.slots.record.trial]
    )


def test_a_set_that_crashes_is_taken_back_after_its_attempts_and_stays_bad(device):
    good = device.install("good")
    device.start()
    device.start()
    bad = device.install("bad", "crashes")
    ran = [device.start() for _ in range(ATTEMPTS + 2)]
    assert ran == [("bad", 1)] * ATTEMPTS + [("good", 0)] * 2
    assert device.slots.record.bad == (bad,)
    assert device.slots.record.active == good
    assert device.happened() == "software-rolled-back"


def test_a_set_for_which_there_is_no_room_leaves_the_disk_as_it_is(device, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        path, sha256 = device.tools.wheel_set(tmp_path / "large", {"large.py": "#" * (1 << 20)}, name="large")
        free = os.statvfs(disk).f_bavail
        with pytest.raises(StorageError) as refused:
            SoftwareSlots(disk).install(path, sha256)
        needed = "the wheel set needs 1572864 bytes to be unpacked beside a reserve of 4194304 bytes, "
        assert refused.value.message.startswith(needed)
        assert not (disk / "software" / "sets").exists()
        assert free - os.statvfs(disk).f_bavail < 16
        assert SoftwareSlots(disk).record == SoftwareRecord()
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_file_that_is_too_large_is_not_even_read(device, tmp_path):
    path = tmp_path / "large.wheels"
    path.touch()
    os.truncate(path, 10 << 30)
    with pytest.raises(BundleError) as refused:
        device.slots.install(path, "a" * 64)
    assert refused.value.message == "'large.wheels' has 10737418240 bytes, over the limit of 1073741824"


def test_a_set_that_hangs_is_ended_by_the_alarm_and_taken_back(device):
    device.install("hung", "hangs")
    ran = [device.start(EDGEFLEET_SOFTWARE_TRIAL_S="1") for _ in range(ATTEMPTS)]
    assert ran == [("hung", -signal.SIGALRM)] * ATTEMPTS
    assert device.start() == ("system", 0)


def test_clean_stops_are_not_counted_against_a_trial(device):
    sha256 = device.install("stopped", "stops")
    assert [device.start()[0] for _ in range(3 * ATTEMPTS)] == ["stopped"] * 3 * ATTEMPTS
    assert device.slots.record == SoftwareRecord(trial=sha256, failures=1)


def test_a_set_whose_files_are_gone_or_half_unpacked_is_not_started(device):
    sha256 = device.install("gone")
    (device.data / "software" / "sets" / sha256 / ".complete").unlink()
    assert device.start() == ("system", 0)
    assert device.slots.record == SoftwareRecord(failures=1, bad=(sha256,))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"active": 3}', '{"active":"x","trial":"","failures":"","bad":[]}'])
def test_a_record_that_cannot_be_read_is_the_systems_own(device, text):
    folder = device.data / "software"
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(text)
    assert read_record(folder) == SoftwareRecord()
    assert device.start() == ("system", 0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ("hash", BundleError, "'tiny.wheels' has the SHA-256 {0}, expected {1}"),
        ("machine", IncompatibleError, "tiny 1.0.0 is for the machine 'pdp11', this device has '{2}'"),
        ("python", IncompatibleError, f"tiny 1.0.0 is for the python '2.7', this device has '{PYTHON}'"),
        ("outside", BundleError, "the wheel 'tiny-1-py3-none-any.whl' has a file outside of itself: '../x.py'"),
        ("status", ModelFailedError, None),
        ("imports", ModelFailedError, None),
    ],
)
def test_what_is_not_for_this_device_or_does_not_run_here_never_starts(
    tmp_path, enrolled, agent_tools, change, error, message
):
    import platform

    files = agent_tools.tiny_files("tiny", status=int(change == "status"))
    if change == "outside":
        files["../x.py"] = ""
    if change == "imports":
        del files["device_agent/field.py"]
    path, sha256 = agent_tools.wheel_set(
        tmp_path / "set",
        files,
        machine="pdp11" if change == "machine" else platform.machine(),
        python="2.7" if change == "python" else PYTHON,
    )
    wanted = "0" * 64 if change == "hash" else sha256
    slots = SoftwareSlots(enrolled.root)
    with pytest.raises(error) as raised:
        slots.install(path, wanted)
    if message is not None:
        assert raised.value.message == message.format(sha256, wanted, platform.machine())
    assert slots.record == SoftwareRecord()
    assert not list(enrolled.root.glob("software/sets/*"))


@pytest.mark.parametrize(
    "names",
    [["a", "a/b"], ["x" * 300], ["."]],
    ids=["a file and a folder of one name", "a name that is too long", "no name"],
)
def test_names_that_no_file_can_have_are_the_sets_fault(device, tmp_path, names):
    files = {**device.tools.tiny_files("tiny"), **dict.fromkeys(names, "")}
    path, sha256 = device.tools.wheel_set(tmp_path / "set", files)
    with suppress(BundleError):  # where a name is none, the file is left out
        device.slots.install(path, sha256)
        assert names == ["."]
    assert (device.slots.record == SoftwareRecord(trial=sha256)) is (names == ["."])


@pytest.mark.parametrize("name", [".complete", ".complete/x", "x.data/purelib/.complete", ".release.json"])
def test_a_set_does_not_write_the_agents_own_marks(device, tmp_path, name):
    text = "written by the set"
    files = {**device.tools.tiny_files("tiny"), name: text, "device_agent/mark.py": ""}
    path, sha256 = device.tools.wheel_set(tmp_path / "set", files)
    device.slots.install(path, sha256)
    folder = device.data / "software" / "sets" / sha256
    assert (folder / ".complete").read_text() == ""
    assert text not in (folder / ".release.json").read_text()
    assert (folder / "device_agent" / "mark.py").exists()


def test_a_set_without_an_agent_of_its_own_is_none_though_one_is_installed_here(device, tmp_path):
    path, sha256 = device.tools.wheel_set(tmp_path / "set", {"other.py": ""})
    with pytest.raises(ModelFailedError, match="the set brings no agent"):
        device.slots.install(path, sha256)
    assert device.slots.record == SoftwareRecord()


def test_what_a_wheel_understates_is_not_unpacked(device, tmp_path):
    files = device.tools.tiny_files("tiny") | {"device_agent/large.py": "#" * (1 << 24)}
    path, _ = device.tools.wheel_set(tmp_path / "set", files)
    with tarfile.open(path) as members:
        first, wheel = (members.extractfile(one).read() for one in members)
    broken = wheel.replace((1 << 24).to_bytes(4, "little"), (10).to_bytes(4, "little"))
    assert broken != wheel
    facts = json.loads(first)
    facts["wheels"][0]["sha256"] = hashlib.sha256(broken).hexdigest()
    path.write_bytes(_tar([("set.json", json.dumps(facts).encode()), (facts["wheels"][0]["name"], broken)]))
    with pytest.raises(BundleError, match="is no wheel: "):
        device.slots.install(path, hashlib.sha256(path.read_bytes()).hexdigest())
    assert not list(device.data.glob("software/sets/*"))


def _tar(members):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return packed.getvalue()


@given(
    data=st.binary(max_size=100)
    | st.lists(
        st.tuples(st.sampled_from(["set.json", "a.whl", "b.whl"]), st.binary(max_size=40) | st.just(b"{}")), max_size=3
    ).map(_tar)
)
def test_whatever_a_file_holds_is_refused_in_one_sentence(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("any")
    path = folder / "any.wheels"
    path.write_bytes(data)
    with pytest.raises(EdgeFleetError):
        SoftwareSlots(folder).install(path, hashlib.sha256(data).hexdigest())
    assert SoftwareSlots(folder).record == SoftwareRecord()


HAPPENINGS = st.lists(st.sampled_from(["healthy", "stopped", "crash", "stage-a", "stage-b", "lose-a"]), max_size=60)


@given(happenings=HAPPENINGS)
def test_whatever_happens_something_runs_and_nothing_unproven_runs_for_ever(happenings):
    record, present, last = SoftwareRecord(), {A, B}, SYSTEM
    proven = {SYSTEM}
    tries = {A: 0, B: 0}
    for happening in happenings:
        if happening.startswith("stage"):
            staged = A if happening == "stage-a" else B
            present.add(staged)
            tries[staged] = 0
            record = on_trial(record, staged)
            continue
        if happening == "lose-a":
            present.discard(A)
        reported = last if happening == "healthy" else None
        stopped = last if happening == "stopped" else None
        if reported is not None:
            proven.add(last)
        if stopped == last and last in tries:
            tries[last] = max(tries[last] - 1, 0)
        start = at_start(record, healthy=reported, stopped=stopped, present=frozenset(present))
        assert start.run == SYSTEM or start.run in present
        assert start.run in proven or start.run == start.record.trial
        assert start.record.trial not in start.record.bad
        assert start.record.failures <= FAILURES
        if start.run == start.record.trial and start.run:
            tries[start.run] += 1
            assert tries[start.run] <= ATTEMPTS
        record, last = start.record, start.run


def test_a_report_of_another_set_commits_nothing():
    start = at_start(SoftwareRecord(active=A, trial=B), healthy=A, stopped=None, present=frozenset({A, B}))
    assert (start.run, start.record) == (B, SoftwareRecord(active=A, trial=B, failures=1))


def test_an_active_set_that_never_comes_up_any_more_gives_way_to_the_systems_own():
    record, runs = SoftwareRecord(active=A), []
    for _ in range(FAILURES + 2):
        start = at_start(record, healthy=None, stopped=None, present=frozenset({A}))
        record = start.record
        runs.append(start.run)
    assert runs == [A] * FAILURES + [SYSTEM] * 2
    assert record.bad == (A,)


@pytest.fixture(name="reporting")
def _reporting(tmp_path):
    folder = tmp_path / "software"
    folder.mkdir()

    def make(record):
        write_record(folder, record)
        return OwnHealth({FOLDER_VARIABLE: str(folder), SET_VARIABLE: A}, now=0.0, settled_s=30.0)

    return folder, make


def test_health_is_reported_when_it_has_lasted_and_on_trial_when_the_server_was_heard(reporting):
    folder, make = reporting
    health = make(SoftwareRecord(trial=A))
    health.step(29.0, hung=False, heard_from_server=True)
    health.step(31.0, hung=True, heard_from_server=True)
    health.step(31.0, hung=False, heard_from_server=False)
    assert not (folder / "healthy").exists()
    health.step(32.0, hung=False, heard_from_server=True)
    assert (folder / "healthy").read_text() == A


def test_a_set_whose_worker_dies_again_and_again_is_never_healthy(reporting):
    folder, make = reporting
    health = make(SoftwareRecord(trial=A))
    for death in range(0, 600, 30):
        health.worker_ended(float(death))
        assert not health.step(death + 59.0, hung=False, heard_from_server=True)
    assert not (folder / "healthy").exists()
    assert health.step(570.0 + 61.0, hung=False, heard_from_server=True)


def test_a_committed_set_is_healthy_without_the_server(reporting):
    folder, make = reporting
    make(SoftwareRecord(active=A)).step(31.0, hung=False, heard_from_server=False)
    assert (folder / "healthy").read_text() == A


def test_without_a_launcher_nothing_is_reported(tmp_path):
    health = OwnHealth({}, now=0.0)
    health.step(100.0, hung=False, heard_from_server=True)
    health.stopped()
    assert (health.happened(), health.running) == ("", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("is_set", [True, False], ids=["a wheel set", "any other folder"])
def test_what_runs_models_reads_its_own_wheel_set_and_no_other_folder_of_the_path(tmp_path, is_set):
    if not landlock.version():
        pytest.skip("the kernel has no Landlock")
    (tmp_path / "late.py").write_text("")
    if is_set:
        (tmp_path / "late-1.dist-info").mkdir()
    code = "from device_agent.sandbox.confinement import confine; confine([]); import late"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd="/")
    assert (ran.returncode == 0) == is_set, ran.stderr


def test_the_real_agent_updates_itself_and_reports_health_to_its_launcher(tmp_path, enrolled, device_side, agent_tools):
    maker = script("build_device_package")
    wheel = maker.device_wheel(maker.project_wheel(tmp_path), tmp_path)
    path = tmp_path / "agent.wheels"
    facts = {"name": "edgefleet-agent", "version": "1.0.0", "machine": "any", "python": PYTHON}
    script("build_wheel_set").write_wheel_set([wheel], path, **facts)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    command = [sys.executable, "-m", "device_agent", "software", "install", str(path), "--sha256", sha256]
    told = subprocess.run([*command, "--data", str(enrolled.root), "--json"], capture_output=True, text=True)
    assert json.loads(told.stdout) == {"name": "edgefleet-agent", "version": "1.0.0", "sha256": sha256}
    run = [sys.executable, str(ROOT / "device_agent" / "launcher.py"), "run", "--data", str(enrolled.root)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONSAFEPATH": "1"}
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*run, "--time-scale", "60"], stdout=subprocess.PIPE, stderr=log, env=environment, text=True
        )
    try:
        assert process.stdout.readline(), (tmp_path / "log").read_text()
        healthy = enrolled.root / "software" / "healthy"
        agent_tools.wait_until(healthy.exists, "a report of health")
        assert healthy.read_text() == sha256
        maps = Path(f"/proc/{process.pid}/environ").read_text()
        assert f"PYTHONPATH={enrolled.root}/software/sets/{sha256}" in maps
    finally:
        process.terminate()
        process.wait(agent_tools.limit_s)
        process.stdout.close()
    assert (enrolled.root / "software" / "stopped").read_text() == sha256
