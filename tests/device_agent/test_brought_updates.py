# SPDX-License-Identifier: Apache-2.0
"""An update that a person brought and that is refused later: by its checks, or because time has passed since."""

import json

import pytest


@pytest.fixture
def bring(device_side, enrolled, agent_tools):
    """Put what the server has now into the device's inbox, as an import does."""

    def put(*bundles):
        inbox = enrolled.root / "inbox"
        folders = {inbox / "image": device_side.image, inbox / "director" / agent_tools.DEVICE: device_side.director}
        for folder, repository in folders.items():
            folder.mkdir(parents=True)
            for name, data in repository.files.items():
                (folder / name).write_bytes(data)
        (inbox / "targets").mkdir()
        for made in bundles:
            (inbox / "targets" / made.sha256).write_bytes(made.data)
        said = {"format_version": 1, "tenant": agent_tools.TENANT, "devices": [agent_tools.DEVICE], "made_at": 1}
        (inbox / "update.json").write_text(json.dumps(said))

    return put


def refusals(device):
    return [(event.kind, event.cause, event.detail) for event in device.events() if event.kind == "update-refused"]


@pytest.fixture
def running(device, device_side, agent_bundles, digits_live):
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, digits_live[0])
    device.until(lambda: not device.agent.polling.checking, "no check is under way when the server goes away")
    return device


def test_a_brought_bundle_that_admission_refuses_is_told_with_its_cause_and_release(
    running, device_side, agent_bundles, bring, digits_live
):
    made = agent_bundles.wrong_parity
    device_side.assign(device_side.release(made))
    device_side.stop()
    bring(made)
    running.agent.polling.soon()  # as the agent's loop does when it finds one
    refusal = ("admission-refused", "parity-reference")
    running.until(lambda: refusal in running.stories(), "admission refuses", digits_live[0])
    (refused,) = [event for event in running.events() if event.kind == "admission-refused"]
    assert (refused.cause, refused.release.version, refused.release.bundle_sha256) == (
        "parity-reference",
        made.version,
        made.sha256,
    )
    assert running.ask(digits_live[0][0]).release == "digits 1.0.0"
    device_side.start_again()


def test_a_brought_model_that_fails_its_trial_goes_back_and_says_why(
    running, device_side, agent_bundles, bring, digits_live
):
    device_side.assign(device_side.release(agent_bundles.v3))
    device_side.stop()
    bring(agent_bundles.v3)
    running.agent.polling.soon()  # as the agent's loop does when it finds one
    running.until(lambda: running.agent.status == "trial", "the trial begins", digits_live[0])
    running.ask(digits_live[0][0] * 0)  # it answers NaN to a blank picture
    running.until(lambda: ("rollback-verified", "non-finite") in running.stories(), "the proof")
    assert running.ask(digits_live[0][0]).release == "digits 1.0.0"
    device_side.start_again()


@pytest.mark.parametrize("server_answers", [False, True], ids=["offline", "the-server-answers"])
def test_a_brought_update_that_is_older_than_what_was_seen_is_told_once(
    running, device_side, agent_bundles, bring, digits_live, server_answers
):
    bring()
    for path in (running.folder.root / "inbox" / "director").rglob("timestamp.json"):
        path.write_bytes(path.read_bytes().replace(b'"version":', b'"version": '))
        path.write_bytes(b"{" + path.read_bytes())  # what lay on the stick changed since it was checked
    if not server_answers:
        device_side.stop()
    running.agent.polling.soon()
    running.until(lambda: refusals(running), "the refusal is told", digits_live[0])
    ((_, cause, detail),) = refusals(running)
    assert cause == "metadata-invalid"
    assert ("the update that was brought: " in detail) == server_answers
    assert not (running.folder.root / "inbox").exists()
    if not server_answers:
        device_side.start_again()
