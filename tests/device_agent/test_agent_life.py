# SPDX-License-Identifier: Apache-2.0
"""The whole life of a release on one device: real metadata, real models; worker and admission inside this process."""

import msgspec
import numpy as np
import pytest

from device_agent.adapters.storage.outbox_file import OutboxFile
from device_agent.core.evidence.usefulness import LEAST_FAILED
from edgefleet.contracts.messages import Telemetry


def test_a_first_release_goes_through_trial_to_commit_and_a_second_one_through_shadow(
    device, device_side, agent_bundles, digits_live
):
    pictures, _ = digits_live
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, pictures)
    assert device.stories() == [
        ("agent-started", "clean-start"),
        ("update-found", "ordered"),
        ("verified", "downloaded"),
        ("admission-passed", "all-checks"),
        ("trial-started", "first-release"),
        ("committed", "trial-passed"),
    ]
    device_side.assign(device_side.release(agent_bundles.v5))
    device.until_running(agent_bundles.v5, pictures)
    assert device.stories()[6:] == [
        ("update-found", "ordered"),
        ("verified", "downloaded"),
        ("admission-passed", "all-checks"),
        ("shadow-started", "admission-passed"),
        ("trial-started", "shadow-passed"),
        ("committed", "trial-passed"),
    ]
    assert device.agent.record.previous[0].release.version == "1.0.0"


def test_a_model_that_answers_nan_in_its_trial_never_reaches_the_application_and_is_rolled_back_and_quarantined(
    device, device_side, agent_bundles, digits_live
):
    pictures, _ = digits_live
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, pictures)
    device_side.assign(device_side.release(agent_bundles.v3))
    device.until(lambda: device.agent.status == "trial", "the trial begins", pictures)
    blank = np.zeros((1, 8, 8, 1), np.float32)
    reply = device.ask(blank)
    assert (reply.status, reply.release) == ("ok", "digits 1.0.0")
    device.until(lambda: ("rollback-verified", "non-finite") in device.stories(), "the rollback is proved")
    assert device.stories()[-3:] == [
        ("quarantined", "non-finite"),
        ("rolled-back", "non-finite"),
        ("rollback-verified", "non-finite"),
    ]
    rolled_back = next(event for event in device.events() if event.kind == "rolled-back")
    assert rolled_back.release.bundle_sha256 == agent_bundles.v3.sha256
    assert rolled_back.seconds >= 0.0
    assert device.ask(blank).release == "digits 1.0.0"
    device_side.assign(device_side.releases[agent_bundles.v3.path])
    device.until(lambda: ("update-refused", "quarantined") in device.stories(), "a later order is refused")
    for _ in range(20):
        device.agent.tick()
    assert device.stories().count(("update-refused", "quarantined")) == 1


def test_a_committed_model_that_fails_most_requests_is_left_for_the_one_before(
    device, device_side, agent_bundles, digits_live
):
    pictures, _ = digits_live
    for made in (agent_bundles.v1, agent_bundles.v3):
        device_side.assign(device_side.release(made))
        device.until_running(made, pictures)
    blank = np.zeros((1, 8, 8, 1), np.float32)
    for picture in (*pictures[:LEAST_FAILED], *[blank] * (LEAST_FAILED - 1)):
        device.ask(picture)
    device.until(lambda: True, "rare failures are counted")
    assert device.stories()[-1] == ("committed", "trial-passed")
    device.until(lambda: ("rollback-verified", "non-finite") in device.stories(), "the way back", [blank])
    assert device.stories()[-3:] == [
        ("quarantined", "non-finite"),
        ("rolled-back", "non-finite"),
        ("rollback-verified", "non-finite"),
    ]
    assert device.ask(blank).release == "digits 1.0.0"


def test_a_model_that_fails_most_requests_stays_where_nothing_else_could_answer(
    device, device_side, agent_bundles, digits_live
):
    pictures, _ = digits_live
    device_side.assign(device_side.release(agent_bundles.v3))
    device.until_running(agent_bundles.v3, pictures)
    for _ in range(2 * LEAST_FAILED):
        device.ask(np.zeros((1, 8, 8, 1), np.float32))
    device.until(lambda: True, "the failures are counted")
    assert device.stories()[-1] == ("committed", "trial-passed")
    assert device.ask(pictures[0]).release == "digits 3.0.0"


def test_an_order_back_to_the_release_before_needs_no_download(device, device_side, agent_bundles, digits_live):
    pictures, _ = digits_live
    first = device_side.release(agent_bundles.v1)
    device_side.assign(first)
    device.until_running(agent_bundles.v1, pictures)
    device_side.assign(device_side.release(agent_bundles.v5))
    device.until_running(agent_bundles.v5, pictures)
    device_side.assign(first)
    device.until_running(agent_bundles.v1, pictures)
    assert [cause for kind, cause in device.stories() if kind == "verified"] == [
        "downloaded",
        "downloaded",
        "already-here",
    ]


def test_an_order_back_during_a_trial_ends_it_without_quarantine(device, device_side, agent_bundles, digits_live):
    pictures, _ = digits_live
    first = device_side.release(agent_bundles.v1)
    device_side.assign(first)
    device.until_running(agent_bundles.v1, pictures)
    device_side.assign(device_side.release(agent_bundles.v5, device.tools.quick_policy(requests=10**6)))
    device.until(lambda: device.agent.status == "trial", "the trial begins", pictures)
    device_side.assign(first)
    device.until(lambda: ("rollback-verified", "ordered") in device.stories(), "back by order", pictures)
    assert device.agent.record.quarantine == ()
    assert device.ask(pictures[0]).release == "digits 1.0.0"


def test_an_empty_order_leaves_what_runs_alone(device, device_side, agent_bundles, digits_live):
    pictures, _ = digits_live
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, pictures)
    counter = device_side.assign(None)
    device.until(lambda: device.agent.record.counter == counter, "the empty order is taken")
    assert device.ask(pictures[0]).status == "ok"


def test_a_first_release_that_fails_leaves_no_model_and_the_device_says_so(
    device, device_side, agent_bundles, digits_live
):
    device_side.assign(device_side.release(agent_bundles.v3))
    device.until(lambda: device.agent.status == "trial", "the trial begins")
    assert device.ask(np.zeros((1, 8, 8, 1), np.float32)).status == "failed"
    device.until(lambda: device.agent.status == "safe-mode", "safe mode")
    assert device.stories()[-3:] == [
        ("quarantined", "non-finite"),
        ("rolled-back", "non-finite"),
        ("safe-mode", "non-finite"),
    ]
    assert device.ask(digits_live[0][0]).status == "no-model"
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, digits_live[0])


def test_a_corrupted_download_is_reported_and_fetched_again(device, device_side, agent_bundles, digits_live):
    device_side.corrupt_downloads = 1
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, digits_live[0])
    assert device.stories()[1:4] == [
        ("update-found", "ordered"),
        ("download-corrupt", "hash-mismatch"),
        ("verified", "downloaded"),
    ]


def test_three_corrupted_downloads_end_the_attempt_until_the_next_order(
    device, device_side, agent_bundles, digits_live
):
    device_side.corrupt_downloads = 3
    target = device_side.release(agent_bundles.v1)
    device_side.assign(target)
    device.until(lambda: ("download-failed", "corrupt") in device.stories(), "it gives up")
    assert device.agent.status == "idle"
    device_side.assign(target)
    device.until_running(agent_bundles.v1, digits_live[0])


def test_a_download_that_breaks_off_goes_on_where_it_stopped(device, device_side, agent_bundles, digits_live):
    device_side.cut_downloads = 1
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, digits_live[0])
    ranges = [range_ for path, range_ in device_side.requests if path.startswith("/image/targets/")]
    assert ranges[0] == ""
    assert ranges[1] == f"bytes={len(agent_bundles.v1.data) // 2}-"


@pytest.mark.parametrize(
    ("name", "cause"), [("wrong_parity", "parity-reference"), ("too_slow", "latency-budget")], ids=["parity", "latency"]
)
def test_a_bundle_that_fails_admission_is_refused_and_quarantined(device, device_side, agent_bundles, name, cause):
    made = getattr(agent_bundles, name)
    device_side.assign(device_side.release(made))
    device.until(lambda: ("admission-refused", cause) in device.stories(), "admission refuses")
    assert [entry.bundle_sha256 for entry in device.agent.record.quarantine] == [made.sha256]
    assert device.agent.status == "idle"


def test_metadata_of_one_approver_is_refused_once_and_what_runs_goes_on(
    device, device_side, agent_bundles, digits_live
):
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, digits_live[0])
    device_side.assign(device_side.release(agent_bundles.v5, signatures=1))
    device.until(lambda: ("update-refused", "metadata-unsigned") in device.stories(), "the refusal")
    for _ in range(3):
        device.agent.timers.sooner("poll", 0.0)
        device.until(lambda: not device.agent.polling.checking, "a poll")
    assert device.stories().count(("update-refused", "metadata-unsigned")) == 1
    assert device.ask(digits_live[0][0]).release == "digits 1.0.0"


def test_expired_metadata_stops_installs_and_never_inference(device, device_side, agent_bundles, digits_live):
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, digits_live[0])
    device_side.assign(device_side.release(agent_bundles.v5), days=-1)
    device.until(lambda: ("update-refused", "metadata-expired") in device.stories(), "the refusal")
    assert device.ask(digits_live[0][0]).release == "digits 1.0.0"
    device_side.assign(device_side.releases[agent_bundles.v5.path])
    device.until_running(agent_bundles.v5, digits_live[0])


def test_a_rollback_needs_no_metadata_that_is_valid(device, device_side, agent_bundles, digits_live):
    pictures, _ = digits_live
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, pictures)
    candidate = device_side.release(agent_bundles.v3)
    device_side.assign(candidate)
    device.until(lambda: device.agent.status == "trial", "the trial begins", pictures)
    device_side.assign(candidate, days=-1)
    device.until(lambda: ("update-refused", "metadata-expired") in device.stories(), "the refusal")
    assert device.agent.status == "trial"
    device.ask(np.zeros((1, 8, 8, 1), np.float32))
    device.until(lambda: ("rollback-verified", "non-finite") in device.stories(), "the rollback is proved")
    assert device.ask(pictures[0]).release == "digits 1.0.0"


def test_a_server_that_is_away_costs_nothing_but_time(device, device_side, agent_bundles, digits_live):
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, digits_live[0])
    device_side.stop()
    device.until(lambda: device.agent.polling.failures >= 1, "a failed poll")
    assert device.ask(digits_live[0][0]).status == "ok"
    device_side.start_again()
    device.agent.timers.set("poll", 0.0)
    device.until(lambda: device.agent.polling.failures == 0, "the next poll")


def test_an_unreadable_state_is_set_aside_and_the_last_good_release_starts(
    device, device_side, agent_bundles, digits_live
):
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, digits_live[0])
    device.agent.stop()
    device.agent.ports.state.close()
    device.folder.state.write_bytes(b"not a database" * 100)
    device.start()
    assert device.stories()[-2:] == [("state-repaired", "unreadable"), ("agent-started", "clean-start")]
    assert device.ask(digits_live[0][0]).release == "digits 1.0.0"
    assert (device.folder.root / "state.db.damaged-1").exists()


def test_a_slot_that_the_disk_damaged_is_noticed_and_fetched_again(device, device_side, agent_bundles, digits_live):
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, digits_live[0])
    device.agent.stop()
    slot = device.folder.slots / f"{agent_bundles.v1.sha256}.bundle"
    data = bytearray(slot.read_bytes())
    data[len(data) // 2] ^= 1
    slot.write_bytes(data)
    device.start()
    device.until(lambda: ("safe-mode", "bundle-invalid") in device.stories(), "the damage is found")
    device.until_running(agent_bundles.v1, digits_live[0])
    assert device.agent.record.quarantine == ()


def test_telemetry_counts_requests_labels_and_comparisons(device, device_side, agent_bundles, digits_live):
    pictures, labels = digits_live
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, pictures)
    device.agent.timers.set("telemetry", 0.0)
    device.agent.tick()
    replies = [device.ask(picture) for picture in pictures[:50]]
    for reply, label in zip(replies, labels, strict=False):
        assert device.engine.feedback(reply.request_id, str(label)).status == "ok"
    assert device.engine.feedback(replies[0].request_id, "1").status == "unknown-request"
    device.agent._life.worker.collect()
    device.agent.tick()
    device.agent.timers.set("telemetry", 0.0)
    device.agent.tick()
    box: OutboxFile = device.agent.ports.outbox
    (*_, last) = [message.body for message in box.after(0, 10_000) if isinstance(message.body, Telemetry)]
    (window,) = last.models
    assert (window.role, window.requests, window.failed, window.non_finite) == ("active", 50, 0, 0)
    assert sum(window.classes.counts) == sum(window.latency.counts) == sum(window.confidence.counts) == 50
    right = sum(reply.top_class == label for reply, label in zip(replies, labels, strict=False))
    columns = zip(window.labelled.actual, window.labelled.predicted, window.labelled.counts, strict=True)
    assert sum(count for actual, predicted, count in columns if actual == predicted) == right
    assert sum(window.labelled.counts) == 50


def test_a_disk_without_room_stops_the_download_and_nothing_else(device, device_side, agent_bundles, digits_live):
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, digits_live[0])
    downloads = device.agent.ports.repositories._downloads
    downloads._reserve_bytes = 1 << 60
    device_side.assign(device_side.release(agent_bundles.v5))
    device.until(lambda: ("download-failed", "disk-full") in device.stories(), "the refusal")
    assert device.ask(digits_live[0][0]).release == "digits 1.0.0"
    downloads._reserve_bytes = 0
    device.until_running(agent_bundles.v5, digits_live[0])
    assert device.stories().count(("download-failed", "disk-full")) == 1


def test_a_disk_that_refuses_is_not_called_full(device, device_side, agent_bundles, digits_live):
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, digits_live[0])
    in_the_way = device.agent.ports.repositories._downloads._folder / f"{agent_bundles.v5.sha256}.part"
    in_the_way.mkdir()
    device_side.assign(device_side.release(agent_bundles.v5))
    device.until(lambda: ("download-failed", "storage-failed") in device.stories(), "the refusal")
    assert device.ask(digits_live[0][0]).release == "digits 1.0.0"
    in_the_way.rmdir()
    device.until_running(agent_bundles.v5, digits_live[0])
    assert ("download-failed", "disk-full") not in device.stories()


def test_a_factory_model_answers_while_there_is_no_good_release(
    device, device_side, agent_bundles, digits_live, tmp_path
):
    factory = tmp_path / "factory.bundle"
    factory.write_bytes(agent_bundles.v5.data)
    device.agent.stop()
    device.settings = msgspec.structs.replace(device.settings, factory_model=str(factory))
    device.start()
    assert device.ask(digits_live[0][0]).release == "digits 5.0.0"
    assert device.agent.state(connected=True).running.version == "5.0.0"
    device_side.assign(device_side.release(agent_bundles.v3))
    device.until(lambda: device.agent.status == "trial", "the trial begins")
    reply = device.ask(np.zeros((1, 8, 8, 1), np.float32))
    assert (reply.status, reply.release) == ("ok", "digits 5.0.0")
    device.until(lambda: device.agent.status == "safe-mode", "safe mode")
    assert device.events()[-1].detail == "the factory model answers"
    assert device.ask(digits_live[0][0]).release == "digits 5.0.0"


def test_a_trigger_that_the_state_does_not_know_ends_in_a_proved_rollback(
    device, device_side, agent_bundles, digits_live
):
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, digits_live[0])
    device.agent._guarded(device.agent.memory.move, "trial-passed")
    device.until(lambda: ("rollback-verified", "lifecycle-fault") in device.stories(), "the proof")
    assert device.ask(digits_live[0][0]).release == "digits 1.0.0"


def test_a_defect_in_a_check_or_a_download_costs_nothing_but_time(
    device, device_side, agent_bundles, digits_live, monkeypatch
):
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, digits_live[0])

    def defect(*_):
        raise ZeroDivisionError

    with monkeypatch.context() as broken:
        broken.setattr(device.agent.ports.repositories, "check", defect)
        device.until(lambda: device.agent.polling.failures == 1, "a failed check")
    with monkeypatch.context() as broken:
        broken.setattr(device.agent.ports.repositories, "fetch", defect)
        device_side.assign(device_side.release(agent_bundles.v5))
        device.agent.polling.soon()
        device.until(lambda: ("download-failed", "step-failed") in device.stories(), "a failed download")
    assert device.ask(digits_live[0][0]).release == "digits 1.0.0"
    device.until_running(agent_bundles.v5, digits_live[0])
