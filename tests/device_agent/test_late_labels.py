# SPDX-License-Identifier: Apache-2.0
"""Labels that come when nothing remembers the answer: each counts once, for the release that answered."""

import socket
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from device_agent.adapters.storage.labels_file import LabelsFile
from device_agent.client import InferenceClient
from device_agent.core.evidence.labels import (
    REMEMBERED_LABELS,
    LabelledRequests,
    LabelMemory,
    UnpairedLabel,
    late_pairs,
)
from device_agent.core.evidence.pairs import UNLABELLED_LIMIT, Pairs, Unlabelled, add_pairs, labelled_pair
from device_agent.core.serving import Collected, ModelRef, PlannedModel, ServingPlan
from device_agent.inference_protocol import AnswerFrame, FeedbackRequest, decode_request, encode_answer, frame
from device_agent.inference_protocol import frame_length as length_of
from device_agent.worker.engine import Engine
from edgefleet.contracts.messages import RunningRelease, Telemetry


@pytest.fixture
def refs(tmp_path, agent_bundles):
    """Returns how a plan names the digits' models."""
    made = {}
    for name in ("v1", "v5"):
        bundle = getattr(agent_bundles, name)
        path = tmp_path / f"{name}.bundle"
        path.write_bytes(bundle.data)
        release = RunningRelease(name="digits", version=f"{name[1]}.0.0", bundle_sha256=bundle.sha256)
        made[name] = ModelRef(path=str(path), release=release)
    return made


def _engine(*, labelled=(), earlier=(), nonce=0xFFFFFFFF, **planned):
    engine = Engine(random=lambda: 0.0, nonce=nonce)
    engine.serve(ServingPlan(number=1, models=(PlannedModel(**planned),), earlier=earlier, labelled=labelled))
    return engine


def _labelled(engine):
    return {
        (window.release.version, window.role): list(
            zip(window.labelled.actual, window.labelled.predicted, window.labelled.counts, strict=True)
        )
        for window in engine.collect().models
    }


def test_a_label_for_an_answer_of_a_worker_before_counts_once_for_its_release(refs):
    engine = _engine(primary=refs["v5"], earlier=(refs["v1"],))
    for release, request in (("digits 1.0.0", 7), ("digits 5.0.0", 8)):
        reply = engine.feedback(request, "3", release, 4)
        assert (reply.status, reply.request_id, reply.top_class) == ("ok", request, 4)
        assert engine.feedback(request, "3", release, 4).status == "unknown-request"
    collected = engine.collect()
    assert collected.labelled == (7, 8)
    assert {window.release.version: window.labelled.counts for window in collected.models} == {
        "1.0.0": (1,),
        "5.0.0": (1,),
    }
    assert msgspec.json.decode(msgspec.json.encode(collected), type=Collected) == collected
    after = _engine(primary=refs["v5"], labelled=collected.labelled, nonce=9)
    assert after.feedback(8, "3", "digits 5.0.0", 4).detail == "the request 8 has its label already"


@pytest.mark.parametrize(
    ("request_id", "label", "release", "predicted", "status", "detail"),
    [
        (
            7,
            "3",
            "digits 9.0.0",
            4,
            "unknown-request",
            "no release 'digits 9.0.0' answered on this device, or it is gone",
        ),
        (7, "3", "digits 5.0.0", -1, "bad-input", "-1 is no class number of the model"),
        (7, "3", "digits 5.0.0", 10, "bad-input", "10 is no class number of the model"),
        (7, "cat", "digits 5.0.0", 4, "bad-input", "'cat' is no class of the model"),
        (0, "3", "digits 5.0.0", 4, "unknown-request", "the request 0 has its label already"),
        (7, "3", "", 4, "unknown-request", "the request 7 is not known, or too long ago"),
    ],
)
def test_a_late_label_that_cannot_be_right_is_refused(refs, request_id, label, release, predicted, status, detail):
    engine = _engine(primary=refs["v5"])
    reply = engine.feedback(request_id, label, release, predicted)
    assert (reply.status, reply.detail) == (status, detail)
    assert _labelled(engine) == {}


def test_what_is_remembered_is_believed_before_what_an_application_says(refs, digits_live):
    engine = _engine(primary=refs["v5"], earlier=(refs["v1"],))
    given = engine.infer([digits_live[0][0][None]])
    assert engine.feedback(given.request_id, "3", "digits 1.0.0", 9).top_class == given.top_class
    assert _labelled(engine) == {("5.0.0", "active"): [(3, given.top_class, 1)]}
    assert engine.feedback(given.request_id, "3", "digits 5.0.0", given.top_class).status == "unknown-request"


def test_an_earlier_release_whose_slot_is_gone_takes_no_label(refs, tmp_path):
    engine = _engine(primary=refs["v5"], earlier=(refs["v1"],))
    (tmp_path / "v1.bundle").unlink()
    assert engine.feedback(7, "3", "digits 1.0.0", 4).status == "unknown-request"


def test_a_label_after_a_restart_within_a_trial_is_paired_by_what_the_trial_remembers(refs, digits_live):
    planned = {"primary": refs["v5"], "role": "trial", "companion": refs["v1"], "companion_role": "fallback"}
    before = _engine(**planned, share=1.0)
    given = before.infer([digits_live[0][0][None]])
    before.settle()
    collected = before.collect()
    assert msgspec.json.decode(msgspec.json.encode(collected), type=Collected) == collected
    (window,) = collected.pairs
    ((number, mine, other),) = window.pairs.unlabelled.rows
    assert (number, mine) == (given.request_id, given.top_class)
    after = _engine(**planned, nonce=9)
    assert after.feedback(number, "3", "digits 5.0.0", mine).status == "ok"
    collected = after.collect()
    assert collected.unpaired == (UnpairedLabel(request_id=number, actual=3),)
    assert late_pairs(window.pairs, collected.unpaired).labelled == labelled_pair(3, mine, other).labelled
    assert late_pairs(window.pairs, (UnpairedLabel(request_id=number + 1, actual=3),)) == window.pairs


def test_the_pairs_that_wait_for_labels_are_the_newest():
    def waiting(first, count):
        return Pairs(unlabelled=Unlabelled.of((number, 1, 2) for number in range(first, first + count)))

    kept = add_pairs(waiting(0, UNLABELLED_LIMIT), waiting(1000, 3)).unlabelled.rows
    assert (len(kept), kept[0], kept[-1]) == (UNLABELLED_LIMIT, (3, 1, 2), (1002, 1, 2))
    assert Unlabelled.of(()) == Unlabelled()


def test_the_newest_labels_are_remembered_in_order():
    known = LabelledRequests(range(REMEMBERED_LABELS))
    known.add(REMEMBERED_LABELS)
    known.note((5,))
    assert (0 in known, 1 in known, REMEMBERED_LABELS in known) == (False, True, True)
    assert (known.take(), known.take()) == ((REMEMBERED_LABELS,), ())
    assert tuple(known) == tuple(range(1, REMEMBERED_LABELS + 1))


def test_labels_lie_on_disk_behind_their_hash_and_damage_only_forgets_them(tmp_path):
    path = tmp_path / "labels.json"
    memory = LabelMemory(labelled=(1 << 63, 7))
    assert LabelsFile(path).load() == LabelMemory()
    LabelsFile(path).save(memory)
    assert LabelsFile(path).load() == memory
    data = path.read_bytes()
    for damaged in (data[:-1], b"", data.replace(b"7", b"8"), b"\xff" + data):
        path.write_bytes(damaged)
        assert LabelsFile(path).load() == LabelMemory()


def test_an_agent_remembers_over_a_restart_which_answers_have_their_label(
    device, device_side, agent_bundles, digits_live
):
    pictures, _ = digits_live
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, pictures)
    given = device.ask(pictures[0])
    assert device.engine.feedback(given.request_id, "3").status == "ok"
    device.agent.stop()
    device.start()
    device.until_running(agent_bundles.v1, pictures)
    late = given.request_id, "3", given.release, given.top_class
    assert device.engine.feedback(*late).status == "unknown-request"
    assert device.engine.feedback(given.request_id + 999, *late[1:]).status == "ok"
    device.agent.stop()
    outbox = device.agent.ports.outbox
    told = [message.body for message in outbox.after(0, 10_000) if isinstance(message.body, Telemetry)]
    assert sum(sum(window.labelled.counts) for body in told for window in body.models) == 2


def _older_agent(listener, heard):
    """Answer as agents did that knew no late labels: such a frame is refused, and ends the connection."""
    while True:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as stream:
            while head := stream.read(4):
                body = stream.read(length_of(head))
                request = decode_request(body)
                heard.append(request)
                old = not request.release
                status = "unknown-request" if old else "bad-input"
                connection.sendall(frame(encode_answer(AnswerFrame(status, detail="too long ago" if old else "what?"))))
                if not old:
                    break
        if len(heard) == 3:
            return


def test_an_older_agent_is_asked_in_its_own_words_and_its_refusal_of_others_is_no_fault(tmp_path):
    heard = []
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor(1) as pool:
        listener.bind(str(tmp_path / "old.sock"))
        listener.listen()
        old = pool.submit(_older_agent, listener, heard)
        with InferenceClient(tmp_path / "old.sock", timeout_s=120.0) as client:
            late = client.feedback(7, 3, release="digits 1.0.0", predicted=4)
            plain = client.feedback(7, 3)
        old.result(120.0)
    assert (late.status, late.detail) == (plain.status, plain.detail) == ("unknown-request", "too long ago")
    assert heard == [FeedbackRequest(7, "3"), FeedbackRequest(7, "3", "digits 1.0.0", 4), FeedbackRequest(7, "3")]
