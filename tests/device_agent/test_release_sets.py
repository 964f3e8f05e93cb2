# SPDX-License-Identifier: Apache-2.0
"""Several models on one device that change together; and what signed orders forbid or lift, over real metadata."""

import msgspec
import numpy as np
import pytest

from device_agent.core.recall import Recall
from device_agent.core.reliance import FORGOTTEN_AFTER_S, in_force
from device_agent.core.serving import Declared
from edgefleet.contracts.interface import Declaration, NeededInterface
from edgefleet.contracts.tuf_custom import RecallOrder, Standing

BLANK = np.zeros((1, 8, 8, 1), np.float32)


def versions(device):
    return {member.release.name: member.release.version for member in device.agent.record.active}


@pytest.fixture
def both(device_side, agent_bundles):
    """The targets of a digits and of a figures model."""
    return [device_side.release(made) for made in (agent_bundles.v1, agent_bundles.figures_v1)]


def test_a_set_is_tried_and_committed_as_one_and_each_model_answers_to_its_name(device, device_side, digits_live, both):
    pictures, _ = digits_live
    device_side.assign_set(*both)
    device.until(lambda: versions(device) == {"digits": "1.0.0", "figures": "1.0.0"}, "both run", pictures)
    assert device.stories().count(("committed", "trial-passed")) == 2
    assert device.ask(pictures[0], "digits").release == "digits 1.0.0"
    assert device.ask(pictures[0], "figures").release == "figures 1.0.0"
    unnamed = device.ask(pictures[0])
    assert (unnamed.status, unnamed.detail) == (
        "bad-input",
        "the request names no model, there is 'digits', 'figures'",
    )


def test_a_set_with_one_bad_member_goes_back_as_one_and_only_that_member_is_quarantined(
    device, device_side, agent_bundles, digits_live, both
):
    pictures, _ = digits_live
    device_side.assign_set(*both)
    device.until(lambda: len(versions(device)) == 2, "both run", pictures)
    device_side.assign_set(*(device_side.release(made) for made in (agent_bundles.v5, agent_bundles.figures_v3)))
    device.until(lambda: device.agent.status == "trial", "the trial begins", pictures)
    assert device.ask(BLANK, "figures").release == "figures 1.0.0"
    device.until(lambda: ("rollback-verified", "non-finite") in device.stories(), "the proof")
    assert versions(device) == {"digits": "1.0.0", "figures": "1.0.0"}
    assert [q.bundle_sha256 for q in device.agent.record.quarantine] == [agent_bundles.figures_v3.sha256]
    device_side.assign_set(device_side.releases[agent_bundles.v5.path], both[1])
    device.until(lambda: versions(device) == {"digits": "5.0.0", "figures": "1.0.0"}, "the good half", pictures)


def test_a_member_that_does_not_change_answers_all_the_time(device, device_side, agent_bundles, digits_live, both):
    pictures, _ = digits_live
    device_side.assign_set(*both)
    device.until(lambda: len(versions(device)) == 2, "both run", pictures)
    device_side.assign_set(device_side.release(agent_bundles.v5), both[1])

    def figures_answer():
        assert device.ask(pictures[0], "figures").release == "figures 1.0.0"
        return versions(device)["digits"] == "5.0.0"

    device.until(figures_answer, "digits changed", pictures)
    device_side.assign_set(both[1])
    device.until(lambda: versions(device) == {"figures": "1.0.0"}, "digits is gone", pictures)
    assert device.ask(pictures[0], "digits").status == "no-model"


def test_a_lifted_quarantine_lets_a_bundle_be_tried_again(device, device_side, agent_bundles):
    target = device_side.release(agent_bundles.v3)
    device_side.assign_set(target)
    device.until(lambda: device.agent.status == "trial", "the trial begins")
    assert device.ask(BLANK).status == "failed"
    device.until(lambda: device.agent.status == "safe-mode", "it fails")
    device_side.assign_set(target)
    device.until(lambda: ("update-refused", "quarantined") in device.stories(), "it is refused")
    device_side.assign_set(target, lift=(agent_bundles.v3.sha256,))
    device.until(lambda: device.agent.status == "trial", "the trial begins again")
    assert device.agent.record.quarantine == ()
    assert list(device.folder.slots.glob("*.bad")) == []
    assert device.ask(BLANK).status == "failed"
    device.until(lambda: device.agent.status == "safe-mode", "it fails again")
    seen = len(device_side.requests)
    device.until(lambda: len(device_side.requests) > seen + 10, "the order is seen again and again")
    assert (device.agent.status, len(device.agent.record.quarantine)) == ("safe-mode", 1)


def test_a_recall_takes_off_what_runs_and_the_release_before_answers_after_a_proof(
    device, device_side, agent_bundles, digits_live
):
    pictures, _ = digits_live
    for made in (agent_bundles.v1, agent_bundles.v5):
        device_side.assign(device_side.release(made))
        device.until_running(made, pictures)
    device_side.image.standing = Standing(recalled=RecallOrder(bundles={"digits": (agent_bundles.v5.sha256,)}))
    device_side.image.publish(device_side.releases)
    device_side.assign_set(standing=1)
    device.until(lambda: ("rollback-verified", "recalled") in device.stories(), "the way back is proved", pictures)
    assert device.ask(pictures[0]).release == "digits 1.0.0"
    rolled_back = next(event for event in device.events() if event.kind == "rolled-back")
    assert rolled_back.detail == "digits 5.0.0 is recalled"
    device.agent.stop()
    device.start()
    assert device.ask(pictures[0]).release == "digits 1.0.0"


def test_a_recall_outlives_the_loss_of_all_that_a_device_remembers(device, device_side, agent_bundles, digits_live):
    pictures, _ = digits_live
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, pictures)
    target = device_side.release(agent_bundles.v5)
    device_side.assign(target)
    device.until_running(agent_bundles.v5, pictures)
    device_side.image.standing = Standing(recalled=RecallOrder(bundles={"digits": (agent_bundles.v5.sha256,)}))
    device_side.image.publish(device_side.releases)
    device_side.assign(None, standing=1)
    device.until(lambda: ("rollback-verified", "recalled") in device.stories(), "the way back is proved", pictures)
    device.until(lambda: device.agent.status == "idle", "it is done", pictures)
    device.agent.stop()
    for path in (device.folder.state, *device.folder.trust.glob("memory.json*")):
        path.write_bytes(b"not what it was")
    with device_side.silent():  # nobody can teach it anything yet
        device.start()
        assert device.ask(pictures[0]).release == "digits 1.0.0"
        assert not (device.folder.slots / f"{agent_bundles.v5.sha256}.bundle").exists()
    device_side.assign(target)
    device.until(lambda: ("update-refused", "recalled") in device.stories()[-3:], "the recall is known again", pictures)
    assert device.agent.record.recall == Recall(releases=(agent_bundles.v5.sha256,))
    assert device.ask(pictures[0]).release == "digits 1.0.0"


def test_what_an_older_agent_installed_against_a_recall_is_taken_off_at_the_start(
    device, device_side, agent_bundles, digits_live
):
    pictures, _ = digits_live
    for made in (agent_bundles.v1, agent_bundles.v5):
        device_side.assign(device_side.release(made))
        device.until_running(made, pictures)
    device.agent.memory.update(recall=Recall(releases=(agent_bundles.v5.sha256,)))
    device.agent.stop()
    device.start()
    device.until(lambda: ("rollback-verified", "recalled") in device.stories(), "the way back is proved", pictures)
    assert device.ask(pictures[0]).release == "digits 1.0.0"


def test_a_recall_of_every_model_leaves_none_to_answer_not_even_the_factorys_until_it_is_withdrawn(
    device, device_side, agent_bundles, digits_live, tmp_path
):
    pictures, _ = digits_live
    factory = tmp_path / "factory.bundle"
    factory.write_bytes(agent_bundles.v5.data)
    device.agent.stop()
    device.settings = msgspec.structs.replace(device.settings, factory_model=str(factory))
    device.start()
    target = device_side.release(agent_bundles.v1)
    device_side.assign(target)
    device.until_running(agent_bundles.v1, pictures)
    device_side.image.top_standing = Standing(recalled=RecallOrder(every_model=True))
    device_side.image.publish(device_side.releases)
    device_side.assign_set(standing=1)
    device.until(lambda: device.agent.status == "safe-mode", "everything is stopped", pictures)
    assert device.ask(pictures[0]).status == "no-model"
    device_side.image.top_standing = None
    device_side.image.publish(device_side.releases)
    device_side.assign_set(target, standing=2)
    device.until_running(agent_bundles.v1, pictures)
    assert device.ask(pictures[0]).release == "digits 1.0.0"


NEEDED = NeededInterface(labels=("cat", *map(str, range(1, 10))))
WRONG = "'door': labels: 0 'cat' is '0'"


def test_a_release_that_an_application_of_the_settings_cannot_use_is_refused_before_it_runs(
    device, device_side, agent_bundles
):
    declaration = Declaration(application="door", model="digits", interface=NEEDED)
    device.agent.stop()
    device.settings = msgspec.structs.replace(device.settings, applications=(declaration,))
    device.start()
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until(lambda: ("admission-refused", "interface") in device.stories(), "the refusal")
    refused = next(event for event in device.events() if event.kind == "admission-refused")
    assert (refused.detail, refused.release.bundle_sha256) == (WRONG, agent_bundles.v1.sha256)


def test_what_an_application_declared_is_remembered_over_a_restart_and_for_a_month(
    device, device_side, agent_bundles, digits_live
):
    pictures, _ = digits_live
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, pictures)
    declaration = Declaration(application="door", interface=NEEDED)
    device.agent._life.on_report(Declared(declarations=(declaration,)))
    device.agent.stop()
    device.start()
    (kept,) = device.agent.record.reliances
    assert kept.declaration == declaration
    assert in_force((kept,), "digits", kept.at + FORGOTTEN_AFTER_S - 1.0) == (declaration,)
    assert in_force((kept,), "digits", kept.at + FORGOTTEN_AFTER_S) == ()
    device_side.assign(device_side.release(agent_bundles.v5))
    device.until(lambda: ("admission-refused", "interface") in device.stories(), "the refusal", pictures)
    assert device.ask(pictures[0]).release == "digits 1.0.0"
