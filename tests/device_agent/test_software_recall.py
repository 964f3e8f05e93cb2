# SPDX-License-Identifier: Apache-2.0
"""Software of the agent's own that a signed order forbids: not fetched, not started, left where it runs."""

import os
import resource
import signal
import subprocess
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agent.adapters.system.hardware import facts_to_tell
from device_agent.adapters.system.own_software import OwnSoftware
from device_agent.adapters.system.software_slots import SoftwareSlots
from device_agent.core.orders.software_trial import SYSTEM, SoftwareRecord, at_start, proved, without
from device_agent.core.recall import Recall
from device_agent.launcher import COMPLETE, FOLDER_VARIABLE, read_record, write, write_record
from edgefleet.contracts.errors import IncompatibleError
from edgefleet.contracts.tuf_custom import RecallOrder, Standing
from edgefleet.version import __version__

A, B, C = "a" * 64, "b" * 64, "c" * 64
NAME = "edgefleet-agent"
KINDS = ("software-found", "software-refused", "software-committed", "software-rolled-back")


@pytest.mark.parametrize(
    ("record", "forbidden", "expected"),
    [
        (SoftwareRecord(active=A, failures=1), {B}, SoftwareRecord(active=A, failures=1)),
        (SoftwareRecord(active=A, failures=1), {A}, SoftwareRecord()),
        (SoftwareRecord(active=A, previous=B), {A}, SoftwareRecord(active=B)),
        (SoftwareRecord(active=A, previous=B), {A, B}, SoftwareRecord()),
        (SoftwareRecord(active=A, previous=B, bad=(B,)), {A}, SoftwareRecord(bad=(B,))),
        (SoftwareRecord(active=A, previous=B), {A, SYSTEM}, SoftwareRecord(active=B)),
        (SoftwareRecord(active=A, failures=1), {A, SYSTEM}, SoftwareRecord(active=A, failures=1)),
        (SoftwareRecord(active=A, trial=B, failures=2), {B}, SoftwareRecord(active=A)),
        (SoftwareRecord(active=A, trial=B, failures=2), {A}, SoftwareRecord(trial=B)),
        (SoftwareRecord(active=A, trial=B), {A, B, SYSTEM}, SoftwareRecord(active=A)),
        (SoftwareRecord(), {SYSTEM}, SoftwareRecord()),
    ],
)
def test_what_is_forbidden_gives_way_to_the_one_before_or_to_the_systems_own(record, forbidden, expected):
    assert without(record, forbidden) == expected


NAMES = st.sampled_from([A, B, C])
RECORDS = st.builds(
    SoftwareRecord,
    active=st.sampled_from([SYSTEM, A, B]),
    trial=st.sampled_from([SYSTEM, C]),
    failures=st.integers(0, 3),
    bad=st.lists(NAMES, max_size=2).map(tuple),
    previous=st.sampled_from([SYSTEM, A, B]),
)


@given(record=RECORDS, forbidden=st.frozensets(st.sampled_from([SYSTEM, A, B, C])))
def test_nothing_forbidden_starts_while_there_is_other_and_always_something_starts(record, forbidden):
    kept = without(record, forbidden)
    assert without(kept, forbidden) == kept
    assert kept.bad == record.bad
    run = at_start(kept, healthy=None, stopped=None, present=frozenset({A, B, C})).run
    assert run not in forbidden or SYSTEM in forbidden
    if run in forbidden:
        assert run == record.active


def test_the_set_before_is_known_until_the_next_one_is_put_on_trial():
    assert proved(SoftwareRecord(active=A, trial=B), B) == SoftwareRecord(active=B, previous=A)


def test_a_record_of_an_agent_that_knew_no_previous_set_is_read(tmp_path):
    (tmp_path / "record.json").write_text(f'{{"active": "{A}", "trial": "", "failures": 1, "bad": []}}')
    assert read_record(tmp_path) == SoftwareRecord(active=A, failures=1)
    write_record(tmp_path, SoftwareRecord(active=B, previous=A))
    assert read_record(tmp_path) == SoftwareRecord(active=B, previous=A)


# ---------------------------------------------------------------------------- the agent
def told(device):
    return [(event.kind, event.cause) for event in device.events() if event.kind in KINDS]


@pytest.fixture(name="recall")
def _recall(device_side):
    """Forbid software by its approvers' signatures, and order what is given beside."""

    def sign(*targets, **recalled):
        device_side.image.standing = Standing(recalled=RecallOrder(**recalled))
        device_side.image.publish(device_side.releases)
        device_side.assign(*targets or (None,), standing=device_side.counter)

    return sign


@pytest.fixture(name="installed")
def _installed(tmp_path, enrolled, agent_tools):
    """Install a set as the release of a version, and let it have proved itself."""

    def make(version):
        files = agent_tools.tiny_files(version)
        path, sha256 = agent_tools.wheel_set(tmp_path / version, files, name=NAME, version=version)
        slots = SoftwareSlots(enrolled.root)
        slots.install(path, sha256)
        write_record(enrolled.root / "software", proved(slots.record, sha256))
        return sha256

    return make


def test_recalled_software_gives_way_to_the_set_before_it_at_once(device, enrolled, start, installed, recall):
    first, second = installed("2.0.0"), installed("3.0.0")
    start(second)
    device.until(lambda: device.agent.polling.order is not None, "an order")
    recall(bundles={NAME: (second,)})
    device.until(lambda: device.agent.software.restart_due, "the restart")
    assert SoftwareSlots(enrolled.root).record == SoftwareRecord(active=first)
    (event,) = (event for event in device.events() if event.kind == "software-rolled-back")
    assert (event.cause, event.detail) == ("recalled", "edgefleet-agent 3.0.0 is recalled")
    assert (event.release.version, event.release.bundle_sha256) == ("3.0.0", second)
    start(first)
    device.until(lambda: device.agent.polling.order is not None, "an order")
    assert not device.agent.software.restart_due
    assert device.agent.state(connected=True).software.version == "2.0.0"


def test_a_set_of_which_nobody_can_read_what_it_is_is_recalled_by_its_hash(device, enrolled, start, installed, recall):
    first, second = installed("2.0.0"), installed("3.0.0")
    (enrolled.root / "software" / "sets" / second / ".release.json").write_bytes(bytes(80))
    start(second)
    recall(bundles={NAME: (second,)})
    device.until(lambda: device.agent.software.restart_due, "the restart")
    assert SoftwareSlots(enrolled.root).record == SoftwareRecord(active=first)
    (event,) = (event for event in device.events() if event.kind == "software-rolled-back")
    assert (event.cause, event.detail) == ("recalled", f"wheel set {second} is recalled")


def test_a_power_cut_when_recalled_software_is_left_loses_no_event(
    device, enrolled, start, installed, recall, monkeypatch
):
    first, second = installed("2.0.0"), installed("3.0.0")
    start(second)
    device.until(lambda: device.agent.polling.order is not None, "an order")

    class PowerCutError(BaseException):
        """The process is gone."""

    def cut(software, sha256s):
        write_record(enrolled.root / "software", software.without(sha256s))
        raise PowerCutError

    monkeypatch.setattr(OwnSoftware, "forbid", cut)
    recall(bundles={NAME: (second,)})
    with pytest.raises(PowerCutError):
        device.until(lambda: device.agent.software.restart_due, "the restart")
    monkeypatch.undo()
    assert SoftwareSlots(enrolled.root).record == SoftwareRecord(active=first)
    assert told(device) == [("software-rolled-back", "recalled")]


def test_the_remedy_of_software_that_had_to_go_on_is_no_way_back(
    device, device_side, enrolled, start, released, recall
):
    start()
    recall(below={NAME: "9.0.0"})
    device.until(lambda: told(device) == [("software-refused", "recalled")], "the sentence")
    target, sha256 = released(version="9.1.0")
    device_side.assign(target)
    device.until(lambda: device.agent.software.restart_due, "the restart")
    assert SoftwareSlots(enrolled.root).record == SoftwareRecord(trial=sha256)
    assert "software-rolled-back" not in dict(told(device))


def test_software_below_a_signed_floor_goes_on_where_nothing_else_may_run(device, enrolled, start, installed, recall):
    only = installed("2.0.0")
    start(only)
    recall(below={NAME: "4.0.0"})
    device.until(lambda: told(device) == [("software-refused", "recalled")], "the sentence")
    assert not device.agent.software.restart_due
    assert SoftwareSlots(enrolled.root).record.active == only
    (event,) = (event for event in device.events() if event.kind == "software-refused")
    assert event.detail == (
        "edgefleet-agent 2.0.0 is below the floor 4.0.0; nothing else on this device may run, and so it goes on"
    )


def test_software_on_trial_that_is_recalled_is_left_for_the_active_one(
    device, device_side, enrolled, start, installed, released, recall
):
    good = installed("1.5.0")
    start(good)
    target, sha256 = released(version="2.0.0")
    device_side.assign(target)
    device.until(lambda: device.agent.software.restart_due, "the restart")
    start(sha256)
    recall(bundles={NAME: (sha256,)})
    device.until(lambda: device.agent.software.restart_due, "the way back")
    assert SoftwareSlots(enrolled.root).record == SoftwareRecord(active=good)
    assert told(device)[-1] == ("software-rolled-back", "recalled")


def test_what_was_installed_and_is_recalled_before_it_starts_never_starts(
    device, device_side, enrolled, start, released, recall
):
    start()
    target, sha256 = released()
    device_side.assign(target)
    device.until(lambda: device.agent.software.restart_due, "the restart")
    start()  # the launcher could not start it, or somebody started the system's own
    device.until(lambda: device.agent.polling.order is not None, "an order")
    recall(bundles={NAME: (sha256,)})
    device.until(lambda: not SoftwareSlots(enrolled.root).record.trial, "the end of its trial")
    assert SoftwareSlots(enrolled.root).record == SoftwareRecord()


def test_recalled_software_is_not_fetched(device, device_side, start, released, recall):
    start()
    target, sha256 = released()
    recall(target, bundles={NAME: (sha256,)})
    device.until(lambda: ("update-refused", "recalled") in device.stories(), "the refusal")
    assert told(device) == []


def test_the_system_software_below_the_floor_says_so_and_goes_on(device, start, recall):
    start()
    recall(below={NAME: "9.0.0"})
    device.until(lambda: told(device) == [("software-refused", "recalled")], "the sentence")
    assert not device.agent.software.restart_due
    (event,) = (event for event in device.events() if event.kind == "software-refused")
    assert event.detail.startswith(f"edgefleet-agent {__version__} is below the floor 9.0.0; ")


def test_a_recall_of_software_is_learned_where_none_was_ever_ordered(start_trust, device_side, agent_bundles):
    device_side.image.standing = Standing(recalled=RecallOrder(below={NAME: "1.0.0"}))
    device_side.assign(device_side.release(agent_bundles.v1))
    assert start_trust(time.time).check(0).recall == Recall(minimum={NAME: "1.0.0"})


def test_a_stop_of_all_models_is_no_word_on_software(device, enrolled, start, installed, device_side):
    only = installed("2.0.0")
    start(only)
    device_side.image.top_standing = Standing(recalled=RecallOrder(every_model=True))
    device_side.image.publish(device_side.releases)
    device_side.assign(None, standing=1)
    device.until(lambda: device.agent.record.recall.stopped, "the recall")
    device_side.requests.clear()
    polled = "/director/dev-1/metadata/timestamp.json"
    device.until(lambda: [path for path, _ in device_side.requests].count(polled) > 3, "some more polls")
    assert told(device) == []
    assert SoftwareSlots(enrolled.root).record.active == only


# ---------------------------------------------------------------------------- the signed facts, and the disk
def test_a_set_that_is_another_release_than_was_signed_is_refused(device, device_side, start, agent_tools, tmp_path):
    start()
    path, _ = agent_tools.wheel_set(tmp_path / "set", agent_tools.tiny_files("other"), name=NAME, version="2.0.1")
    device_side.assign(device_side.release_software(path, "2.0.0"))
    device.until(lambda: ("software-refused", "bundle-invalid") in told(device), "the refusal")
    (event,) = (event for event in device.events() if event.kind == "software-refused")
    assert event.detail.endswith("is edgefleet-agent 2.0.1, expected edgefleet-agent 2.0.0")


def test_a_disk_that_takes_no_more_in_the_middle_of_an_installation_keeps_nothing_of_it(
    tmp_path, enrolled, agent_tools
):
    files = agent_tools.tiny_files("large") | {"large.py": "#" * (1 << 20)}
    path, sha256 = agent_tools.wheel_set(tmp_path / "large", files, name=NAME, version="2.0.0")

    def bounded():
        resource.setrlimit(resource.RLIMIT_FSIZE, (64 << 10, 64 << 10))

    words = ["software", "install", str(path), "--sha256", sha256, "--data", str(enrolled.root)]
    command = [sys.executable, "-m", "device_agent", *words]
    ran = subprocess.run(command, capture_output=True, text=True, preexec_fn=bounded, timeout=120)
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr.startswith(f"error: cannot unpack '{path.name}': ")
    assert "File too large" in ran.stderr
    assert list((enrolled.root / "software" / "sets").iterdir()) == []
    assert SoftwareSlots(enrolled.root).record == SoftwareRecord()


def test_what_a_power_cut_left_half_unpacked_takes_no_room_from_the_next(tmp_path, agent_tools):
    half, slots = tmp_path / "software" / "sets" / A, SoftwareSlots(tmp_path)
    path, sha256 = agent_tools.wheel_set(tmp_path / "set", agent_tools.tiny_files("first"))

    def cut(event, _arguments):
        if event == "subprocess.Popen":  # it is unpacked, and about to be tried
            os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        sys.addaudithook(cut)
        try:
            slots.install(path, sha256)
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(child, 0)[1])
    (tmp_path / "software" / "sets" / sha256).rename(half)
    assert any(half.rglob("*.py"))
    foreign, named = agent_tools.wheel_set(tmp_path / "other", {"no": "agent"}, machine="pdp11")
    with pytest.raises(IncompatibleError):  # refused after the room was looked at, before anything is unpacked
        slots.install(foreign, named)
    assert not half.exists()
    slots.install(path, sha256)
    with pytest.raises(IncompatibleError):
        slots.install(foreign, named)
    assert (tmp_path / "software" / "sets" / sha256 / COMPLETE).exists()


@pytest.mark.parametrize(("writable", "kinds"), [(True, ("software",)), (False, ())])
def test_software_is_taken_by_order_only_where_it_could_be_written(tmp_path, monkeypatch, writable, kinds):
    place = tmp_path if writable else write(tmp_path / "file", "no folder") or tmp_path / "file"
    monkeypatch.setenv(FOLDER_VARIABLE, str(place / "software"))
    assert facts_to_tell().order_kinds == kinds


def test_software_is_not_taken_where_the_folder_of_its_sets_is_none(tmp_path, monkeypatch):
    write(tmp_path / "software" / "sets", "no folder")
    monkeypatch.setenv(FOLDER_VARIABLE, str(tmp_path / "software"))
    assert facts_to_tell().order_kinds == ()
