# SPDX-License-Identifier: Apache-2.0
"""Orders that name the agent's own software: what is taken, what is refused and how often, and what a kill leaves."""

import hashlib
import os
import platform
import shutil
import signal
import sys
import time

import pytest

from device_agent.adapters.storage.holds import Hold, HoldFolder
from device_agent.adapters.system.software_slots import SoftwareSlots
from device_agent.core.life.record import Software
from device_agent.core.orders.release_orders import SignedSoftware, TargetFile
from device_agent.core.orders.software_orders import Here, Verdict, judge
from device_agent.core.orders.software_trial import SYSTEM, SoftwareRecord, lifted
from device_agent.launcher import SET_VARIABLE, prepare, write, write_record
from edgefleet.contracts.errors import UnsupportedModelError
from edgefleet.contracts.messages import RunningRelease
from edgefleet.runtimes.litert import LiteRtInterpreter

A, B, C = "a" * 64, "b" * 64, "c" * 64
MACHINE = platform.machine()


def signed(sha256, machine="any", python="any"):
    release = RunningRelease(name="edgefleet-agent", version="2.0.0", bundle_sha256=sha256)
    return SignedSoftware(release, TargetFile("p", sha256, 1), machine, python)


def here(running, *, on_trial=False, launcher=True):
    return Here(running, on_trial, launcher, "aarch64", "3.11.2")


@pytest.mark.parametrize(
    ("wanted", "record", "running", "on_trial", "action"),
    [
        (A, SoftwareRecord(active=A), A, False, "nothing"),
        (A, SoftwareRecord(active=B, trial=A), A, True, "nothing"),
        (A, SoftwareRecord(), SYSTEM, False, "install"),
        (A, SoftwareRecord(active=B), B, False, "install"),
        (A, SoftwareRecord(active=B, trial=A), B, False, "restart"),
        (A, SoftwareRecord(active=B, trial=C), C, True, "nothing"),
        (A, SoftwareRecord(active=B, trial=C), C, False, "install"),
        (A, SoftwareRecord(active=A, trial=C), C, True, "choose"),
        (A, SoftwareRecord(active=A), C, False, "restart"),
        (A, SoftwareRecord(active=A, trial=C), A, False, "choose"),
        (A, SoftwareRecord(active=B, bad=(A,)), B, False, "refuse"),
    ],
)
def test_ordered_software_is_installed_once_and_what_is_on_trial_is_left_alone(
    wanted, record, running, on_trial, action
):
    assert judge(signed(wanted), record, here(running, on_trial=on_trial)).action == action


@pytest.mark.parametrize(
    ("wanted", "launcher", "cause", "detail"),
    [
        (
            signed(A, machine="x86_64"),
            True,
            "does-not-fit",
            "edgefleet-agent 2.0.0 is for the machine 'x86_64', this device has 'aarch64'",
        ),
        (
            signed(A, python="3.12"),
            True,
            "does-not-fit",
            "edgefleet-agent 2.0.0 is for the python '3.12', this device has '3.11'",
        ),
        (
            signed(A),
            False,
            "no-launcher",
            "edgefleet-agent 2.0.0 cannot be tried: this agent was not started by its launcher, which tries new "
            "software and takes it back: update it as it was installed, or install the system's package",
        ),
    ],
)
def test_what_cannot_run_or_be_tried_here_is_refused_by_name(wanted, launcher, cause, detail):
    verdict = judge(wanted, SoftwareRecord(), here(SYSTEM, launcher=launcher))
    assert verdict == Verdict("refuse", cause, detail)


def test_what_failed_its_trial_is_tried_again_once_it_is_lifted():
    record = SoftwareRecord(active=B, bad=(A, B))
    assert judge(signed(A), record, here(B)).cause == "quarantined"
    assert lifted(record, (A,)) == SoftwareRecord(active=B, bad=(B,))
    assert judge(signed(A), lifted(record, (A,)), here(B)).action == "install"


# ---------------------------------------------------------------------------- the agent


def told(device, *kinds):
    return [(event.kind, event.cause) for event in device.events() if event.kind in kinds]


SOFTWARE = ("software-found", "software-refused", "software-committed", "software-rolled-back", "download-failed")


def test_ordered_software_is_fetched_installed_and_the_agent_ends_for_its_launcher(
    device, device_side, released, start, enrolled
):
    start()
    target, sha256 = released()
    device_side.assign(target)
    device.until(lambda: device.agent.software.restart_due, "the restart")
    assert SoftwareSlots(enrolled.root).record == SoftwareRecord(trial=sha256)
    assert not list(enrolled.downloads.glob("*.part"))
    (found,) = (event for event in device.events() if event.kind == "software-found")
    release = RunningRelease(name="edgefleet-agent", version="2.0.0", bundle_sha256=sha256)
    assert (found.release, found.counter) == (release, 2)
    start(sha256)
    assert device.agent.state(connected=True).software is None
    write(enrolled.root / "software" / "healthy", sha256)
    device.agent.software.proved()
    assert device.agent.state(connected=True).software == release
    device_side.assign(target)
    device.until(lambda: device.agent.record.counter == 3, "the next order")
    assert told(device, *SOFTWARE) == [("software-found", "ordered"), ("software-committed", "healthy")]


def test_models_of_the_same_order_come_first(
    device, device_side, released, start, agent_bundles, digits_live, agent_tools
):
    start()
    target, _ = released()
    device_side.assign(device_side.release(agent_bundles.v1, agent_tools.quick_policy()), target)
    device.until(lambda: device.agent.software.restart_due, "the restart", digits_live[0][:10])
    kinds = [event.kind for event in device.events()]
    assert kinds.index("committed") < kinds.index("software-found")
    assert [member.release.version for member in device.agent.record.active] == ["1.0.0"]


def test_a_hold_of_an_application_puts_the_installation_off_and_not_the_download(
    device, device_side, released, start, enrolled
):
    start()
    target, sha256 = released()
    HoldFolder(enrolled.holds).put("robot", Hold(until=time.time() + 3600, reason="it moves"))
    device_side.assign(target)
    device.until(lambda: ("verified", "downloaded") in device.stories(), "the download")
    assert SoftwareSlots(enrolled.root).record == SoftwareRecord()
    HoldFolder(enrolled.holds).release("robot")
    device.until(lambda: device.agent.software.restart_due, "the restart")
    assert SoftwareSlots(enrolled.root).record == SoftwareRecord(trial=sha256)


@pytest.mark.parametrize(
    ("facts", "launcher", "cause"),
    [
        ({"machine": "pdp11"}, True, "does-not-fit"),
        ({"python": "2.7"}, True, "does-not-fit"),
        ({}, False, "no-launcher"),
        ({"files": {"device_agent/__init__.py": ""}}, True, "model-failed"),
        ({"machine": MACHINE, "said": {"machine": "pdp11"}}, True, "incompatible"),
    ],
    ids=["machine", "python", "no launcher", "does not import", "another than signed"],
)
def test_what_is_refused_is_told_once_and_not_tried_again_for_the_same_order(
    device, device_side, released, start, enrolled, facts, launcher, cause
):
    start(launcher=launcher)
    target, sha256 = released(**facts)
    device_side.assign(target)
    device.until(lambda: told(device, "software-refused"), "the refusal")
    device_side.requests.clear()
    polled = "/director/dev-1/metadata/timestamp.json"
    device.until(lambda: [path for path, _ in device_side.requests].count(polled) > 3, "some more polls")
    assert told(device, "software-refused") == [("software-refused", cause)]
    assert not [path for path, _ in device_side.requests if sha256 in path]
    assert not device.agent.software.restart_due
    device_side.assign(target)
    device.until(lambda: len(told(device, "software-refused")) == 2, "the next order's refusal")
    assert SoftwareSlots(enrolled.root).record == SoftwareRecord()


def test_a_trial_that_failed_is_told_and_not_repeated_until_it_is_lifted(
    device, device_side, released, start, enrolled
):
    start()
    target, sha256 = released()
    device_side.assign(target)
    device.until(lambda: device.agent.software.restart_due, "the restart")
    write_record(enrolled.root / "software", SoftwareRecord(bad=(sha256,)))
    start(happened="software-rolled-back")
    assert told(device, *SOFTWARE)[1:] == [("software-rolled-back", "trial-failed")]
    (event,) = (event for event in device.events() if event.kind == "software-rolled-back")
    assert event.release == RunningRelease(name="edgefleet-agent", version="2.0.0", bundle_sha256=sha256)
    assert device.agent.state(connected=True).quarantined == (sha256,)
    device_side.requests.clear()
    polled = "/director/dev-1/metadata/timestamp.json"
    device.until(lambda: [path for path, _ in device_side.requests].count(polled) > 3, "some more polls")
    assert told(device, *SOFTWARE)[2:] == []
    device_side.assign(target)
    device.until(lambda: told(device, *SOFTWARE)[2:] == [("software-refused", "quarantined")], "the refusal")
    device_side.assign(None, lift=(sha256,))  # the fleet went back from it meanwhile, and orders none
    device.until(lambda: not SoftwareSlots(enrolled.root).record.bad, "the end of its quarantine")
    assert device.agent.state(connected=True).quarantined == ()
    device_side.assign(target)
    device.until(lambda: device.agent.software.restart_due, "the restart")
    assert SoftwareSlots(enrolled.root).record == SoftwareRecord(trial=sha256)
    write_record(enrolled.root / "software", SoftwareRecord(bad=(sha256,)))
    start(happened="software-rolled-back")
    device_side.assign(target, lift=(sha256,))
    device.until(lambda: device.agent.software.restart_due, "the restart by the order that lifts and wants it")
    write_record(enrolled.root / "software", SoftwareRecord(bad=(sha256,)))
    start(happened="software-rolled-back")
    device_side.requests.clear()
    device.until(lambda: [path for path, _ in device_side.requests].count(polled) > 3, "some more polls")
    assert not device.agent.software.restart_due
    assert SoftwareSlots(enrolled.root).record == SoftwareRecord(bad=(sha256,))


def test_software_with_which_a_model_fails_that_answered_before_is_left_at_once(
    device, device_side, released, start, enrolled, agent_bundles, digits_live, agent_tools, monkeypatch
):
    start()
    device_side.assign(device_side.release(agent_bundles.v1, agent_tools.quick_policy()))
    device.until_running(agent_bundles.v1, digits_live[0][:10])
    target, sha256 = released()
    device_side.assign(device_side.releases[agent_bundles.v1.path], target)
    device.until(lambda: device.agent.software.restart_due, "the restart")

    def refuses(*_, **__):
        raise UnsupportedModelError("this runtime knows no such operator", hint="-")

    monkeypatch.setattr(LiteRtInterpreter, "__init__", refuses)
    monkeypatch.setattr("device_agent.wiring.installed_software", lambda: Software(agent="2.0.0", runtime="new 2.0"))
    start(sha256)
    device.until(lambda: device.agent.software.restart_due, "the way back")
    assert SoftwareSlots(enrolled.root).record == SoftwareRecord(bad=(sha256,))
    monkeypatch.undo()
    start()
    device.until_running(agent_bundles.v1, digits_live[0][:10])
    assert told(device, *SOFTWARE) == [("software-found", "ordered"), ("software-rolled-back", "model-failed")]


def test_a_download_that_broke_goes_on_and_one_that_is_corrupt_is_given_up(device, device_side, released, start):
    start()
    target, _ = released()
    device_side.cut_downloads = 1
    device_side.assign(target)
    device.until(lambda: device.agent.software.restart_due, "the restart")
    assert told(device, "download-failed") == [("download-failed", "unreachable")]
    other, _ = released("third", "3.0.0")
    start()
    device_side.corrupt_downloads = 100
    device_side.assign(other)
    device.until(lambda: told(device, "software-refused"), "the refusal")
    assert told(device, "download-corrupt", "software-refused") == [
        *[("download-corrupt", "hash-mismatch")] * 3,
        ("software-refused", "corrupt"),
    ]


# ---------------------------------------------------------------------------- trust


def test_software_under_the_name_of_another_product_is_refused(device_side, released, start_trust, refusal):
    target, _ = released()
    target.unrecognized_fields["custom"]["edgefleet"]["name"] = "digits"
    device_side.image.publish(device_side.releases)
    device_side.assign(target)
    expected = "edgefleet-agent/2.0.0/edgefleet-agent-2.0.0-any.python-any.wheels"
    assert refusal(start_trust(time.time)) == (
        "wrong-path",
        f"'{expected}' is signed as software 'digits', expected '{expected}'",
    )


def test_the_approvers_of_a_product_cannot_sign_software(device_side, released, start_trust, refusal):
    device_side.image.paths = ("digits/*/*",)
    target, _ = released()
    device_side.assign(target)
    path = "edgefleet-agent/2.0.0/edgefleet-agent-2.0.0-any.python-any.wheels"
    assert refusal(start_trust(time.time)) == ("not-in-image-repository", f"'{path}' is not in the image repository")


def test_software_that_lacks_an_approvers_signature_is_refused(device_side, released, start_trust, refusal):
    target, _ = released()
    device_side.image.publish(device_side.releases, signatures=1)
    device_side.assign(target)
    cause, _ = refusal(start_trust(time.time))
    assert cause == "metadata-unsigned"


def test_two_wheel_sets_in_one_order_are_refused(device_side, released, start_trust, refusal):
    first, second = released()[0], released("third", "3.0.0")[0]
    device_side.assign(first, second)
    expected = ("assignment-ambiguous", "the director lists two wheel sets, expected one")
    assert refusal(start_trust(time.time)) == expected


# ---------------------------------------------------------------------------- power


def killed_at(number, work):
    """Run ``work`` in a child that is killed at its n-th change or opening of a file; tell whether it was."""
    child = os.fork()
    if child == 0:
        seen = 0

        def count(event, _arguments):
            nonlocal seen
            if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "subprocess.Popen"):
                seen += 1
                if seen == number:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        try:
            work()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def starts(data):
    """What the launcher would start now."""
    return prepare(["run", "--data", str(data)], {}).environment[SET_VARIABLE]


def test_a_kill_at_any_step_of_an_installation_leaves_what_runs_or_the_whole_new_set(tmp_path, agent_tools):
    (tmp_path / "archives").mkdir()
    files = agent_tools.tiny_files("second")
    archive, sha256 = agent_tools.wheel_set(tmp_path / "archives", files, name="second")
    data = tmp_path / "data"
    first, good = agent_tools.wheel_set(tmp_path / "first", agent_tools.tiny_files("first"), name="first")
    SoftwareSlots(data).install(first, good)
    write_record(data / "software", SoftwareRecord(active=good))
    kills, left = 0, set()
    while killed_at(kills + 1, lambda: SoftwareSlots(data).install(archive, sha256)):
        kills += 1
        started = starts(data)
        left.add(started)
        assert started in (good, sha256)
        if started == sha256:
            folder = data / "software" / "sets" / sha256
            assert {str(path.relative_to(folder)) for path in folder.rglob("*.py")} == set(files)
        write_record(data / "software", SoftwareRecord(active=good))
        shutil.rmtree(data / "software" / "sets" / sha256, ignore_errors=True)
    sys.stdout.write(f"{kills} kills of an installation, one at each step: each left a set that starts\n")
    assert left == {good, sha256}
    assert starts(data) == sha256
    assert hashlib.sha256(archive.read_bytes()).hexdigest() == sha256
