# SPDX-License-Identifier: Apache-2.0
"""The agent as real processes: supervisor, worker and admission child, over real HTTPS."""

import contextlib
import itertools
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.identity.enrolment import enrol
from device_agent.adapters.storage.state_file import read_record
from device_agent.client import InferenceClient, RawTensor
from edgefleet.contracts.enrolment import BrokerAddress
from edgefleet.contracts.errors import ConflictError, UnreachableError
from edgefleet.contracts.messages import Event, Message, State, decode_message
from edgefleet.contracts.policy import DevicePolicy, ShadowRule, TrialRule

KILLS = 5
#: Ends a test that fails.
LIMIT_S = 120.0


def stories(folder):
    """Events in the outbox, read beside the running agent."""
    with contextlib.closing(
        sqlite3.connect(f"{folder.outbox.as_uri()}?mode=ro", uri=True, timeout=LIMIT_S)
    ) as database:
        rows = database.execute("SELECT data FROM message ORDER BY sequence").fetchall()
    bodies = [decode_message(data, Message).body for (data,) in rows]
    return [(body.kind, body.cause) for body in bodies if isinstance(body, Event)]


def agent_says(folder, *arguments):
    """Run a command of the agent and return its exit status and JSON document."""
    verb, *rest = arguments
    command = [sys.executable, "-m", "device_agent", verb, "--data", str(folder.root), *rest, "--json"]
    ran = subprocess.run(command, capture_output=True, text=True)
    return ran.returncode, json.loads(ran.stdout)


def sequences(folder):
    with contextlib.closing(sqlite3.connect(folder.outbox, timeout=LIMIT_S)) as database:
        return [row[0] for row in database.execute("SELECT sequence FROM message ORDER BY sequence")]


class Application:
    """Asks for inferences in a thread, one after another, until it is stopped."""

    def __init__(self, path, pictures):
        self.answers = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, args=(path, pictures))
        self._thread.start()

    def _ask(self, path, pictures):
        with InferenceClient(path, timeout_s=LIMIT_S) as client:
            for picture in itertools.cycle(pictures):
                if self._stop.is_set():
                    return
                self.answers.append(client.infer(picture))

    def stop(self):
        self._stop.set()
        self._thread.join(LIMIT_S)
        return self.answers


@pytest.fixture
def run_release(agent_process, device_side, enrolled, agent_tools, digits_live):
    """Start an agent and let it commit a bundle while an application asks."""

    def run(made, *arguments):
        device_side.assign(device_side.release(made))
        process, ready = agent_process("--poll", "0.1", *arguments)
        application = Application(ready["socket"], digits_live[0])
        agent_tools.wait_until(lambda: ("committed", "trial-passed") in stories(enrolled), f"commit of {made.version}")
        return process, ready, application

    return run


def quarantined(enrolled):
    return [entry.bundle_sha256 for entry in read_record(enrolled.state).quarantine]


def test_an_update_under_load_answers_every_request(
    run_release, device_side, enrolled, agent_tools, agent_bundles, digits_live
):
    _process, ready, application = run_release(agent_bundles.v1)
    before = len(application.answers)
    device_side.assign(device_side.release(agent_bundles.v5))
    agent_tools.wait_until(lambda: stories(enrolled).count(("committed", "trial-passed")) == 2, "the second commit")
    asked = len(application.answers)
    agent_tools.wait_until(lambda: len(application.answers) > asked + 10, "answers of the new release")
    answers = application.stop()[before:]
    assert {answer.status for answer in answers} == {"ok"}
    assert answers[-1].release == "digits 5.0.0"
    picture, label = digits_live[0][0], digits_live[1][0]
    with InferenceClient(ready["socket"], timeout_s=LIMIT_S) as client:
        raw = client.infer(RawTensor(picture.tobytes(), "float32", picture.shape))
        assert raw.top_class == int(raw.label) == int(np.argmax(raw.outputs[0]))
        assert raw.shapes == ((1, 10),)
        assert client.feedback(raw.request_id, int(label)).status == "ok"
        assert client.infer(np.full((8, 8, 1), np.nan, np.float32)).status == "bad-input"
        assert client.infer(np.zeros((3, 3), np.float32)).status == "bad-input"
        assert client.infer(picture, deadline_s=-1.0).status == "deadline"
        assert client.infer(picture).status == "ok"


def test_status_and_feedback_speak_json_and_a_clean_stop_is_not_counted(
    run_release, agent_process, agent_bundles, enrolled, digits_live
):
    process, ready, application = run_release(agent_bundles.v1)
    application.stop()
    with InferenceClient(ready["socket"], timeout_s=LIMIT_S) as client:
        answer = client.infer(digits_live[0][0])
    v1 = {"name": "digits", "version": "1.0.0", "bundle_sha256": agent_bundles.v1.sha256}
    assert agent_says(enrolled, "status")[1]["active"] == v1
    number = str(answer.request_id)
    counted = {"request_id": answer.request_id, "predicted": answer.top_class}
    assert agent_says(enrolled, "feedback", number, "3") == (0, counted)
    status, refusal = agent_says(enrolled, "feedback", number, "3")
    assert (status, refusal["error"]["message"]) == (2, f"the request {number} is not known, or too long ago")
    late = ("--release", answer.release, "--predicted", "4")
    assert agent_says(enrolled, "feedback", str(answer.request_id + 999), "4", *late)[1]["predicted"] == 4
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 0
    assert read_record(enrolled.state).clean_stop
    assert not Path(ready["socket"]).exists()
    status = agent_says(enrolled, "status")[1]
    (scored,) = status["labels"]
    assert (status["status"], scored["version"], scored["labels"]) == ("idle", "1.0.0", 2)
    assert scored["classes"]["4"]["recall"] == 1.0
    before = len(stories(enrolled))
    agent_process()
    assert stories(enrolled)[before] == ("agent-started", "clean-start")


def test_requests_flow_on_while_the_worker_is_killed_again_and_again(run_release, agent_tools, agent_bundles):
    process, _, application = run_release(agent_bundles.v1)
    before = len(application.answers)
    for _ in range(3):
        os.kill(agent_tools.worker_of(process.pid), signal.SIGKILL)
        wanted = len(application.answers) + 5
        agent_tools.wait_until(lambda n=wanted: len(application.answers) > n, "answers of the next worker")
    assert {answer.status for answer in application.stop()[before:]} == {"ok"}


def test_a_device_whose_certificates_are_damaged_still_answers_applications(
    run_release, agent_process, agent_bundles, enrolled, digits_live
):
    process, _, application = run_release(agent_bundles.v1)
    application.stop()
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 0
    for path in (enrolled.certificate, enrolled.key, enrolled.ca):
        path.write_text("not a certificate")
    process, ready = agent_process("--poll", "0.1")
    with InferenceClient(ready["socket"], timeout_s=LIMIT_S) as client:
        assert client.infer(digits_live[0][0]).release == "digits 1.0.0"
    assert process.poll() is None


def test_the_worker_ends_with_its_supervisor_and_a_new_agent_resumes(
    run_release, agent_process, agent_tools, agent_bundles, enrolled, digits_live
):
    process, _, application = run_release(agent_bundles.v1)
    application.stop()
    worker = agent_tools.worker_of(process.pid)
    process.kill()
    process.wait()
    agent_tools.wait_until(lambda: not Path(f"/proc/{worker}").exists(), "the worker is gone")
    _, ready = agent_process("--poll", "0.1")
    with InferenceClient(ready["socket"], timeout_s=LIMIT_S) as client:
        assert agent_tools.wait_until(lambda: client.infer(digits_live[0][0]).status == "ok", "an answer")
    assert ("agent-started", "unclean-start") in stories(enrolled)


def test_kill_9_of_supervisor_worker_or_both_in_an_update_loses_no_message_and_no_good_model(
    agent_process, device_side, enrolled, agent_tools, agent_bundles, digits_live
):
    seed = random.SystemRandom().randrange(2**32)
    draw = random.Random(seed)
    policy = agent_tools.quick_policy(unexplained_limit=100)
    releases = [device_side.release(made, policy) for made in (agent_bundles.v1, agent_bundles.v5)]
    kept: list[int] = []
    for turn in range(KILLS):
        device_side.assign(releases[turn % 2])
        process, ready = agent_process("--poll", "0.1")
        with InferenceClient(ready["socket"], timeout_s=LIMIT_S) as client:
            for number in range(draw.randrange(1, 300)):
                client.infer(digits_live[0][number % 500])
        worker = agent_tools.worker_of(process.pid)
        victims = draw.choice([[process.pid], [worker], [worker, process.pid]])
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        with InferenceClient(ready["socket"], timeout_s=LIMIT_S) as client:
            if process.pid not in victims:
                assert client.info().status in ("ok", "no-model"), f"seed {seed}"
        process.kill()
        process.wait()
        before, kept = kept, sequences(enrolled)
        assert kept == list(range(1, len(kept) + 1)), f"seed {seed}"
        assert len(kept) > len(before), f"seed {seed}"
    target = releases[1]
    device_side.assign(target)
    process, ready = agent_process("--poll", "0.1")
    application = Application(ready["socket"], digits_live[0])
    wanted = target.hashes["sha256"]
    agent_tools.wait_until(
        lambda: (active := read_record(enrolled.state).active) and active[0].sha256 == wanted, f"seed {seed}"
    )
    assert application.stop()[-1].status == "ok"
    assert read_record(enrolled.state).quarantine == ()


@pytest.mark.parametrize(
    ("number", "ended"),
    [(signal.SIGSEGV, ("rollback-verified", "crash")), (signal.SIGKILL, ("committed", "trial-passed"))],
    ids=["a crash", "a kill from outside"],
)
def test_a_candidate_whose_worker_crashes_twice_is_rolled_back_and_a_killed_one_is_not(
    run_release, device_side, enrolled, agent_tools, agent_bundles, tmp_path, number, ended
):
    alone = tmp_path / "agent.toml"
    alone.write_text("compare_share = 0.0\n")  # whatever the worker runs in the trial is the candidate
    process, _, application = run_release(agent_bundles.v1, "--config", str(alone))
    requests = 10**6 if number == signal.SIGSEGV else 1500
    trial = TrialRule(requests=requests, minimum_s=0.0)
    policy = DevicePolicy(shadow=ShadowRule(samples=0), trial=trial)
    before = len(stories(enrolled))
    device_side.assign(device_side.release(agent_bundles.v5, policy))
    for deaths in (1, 2):
        agent_tools.wait_until(lambda: candidate_answers(application), "the candidate answers")
        worker = agent_tools.worker_of(process.pid)
        os.kill(worker, number)
        agent_tools.wait_until(
            lambda n=deaths: count(stories(enrolled), "worker-restarted") == n, "the death is noticed"
        )
        agent_tools.wait_until(
            lambda dead=worker: (at_work := agent_tools.workers_of(process.pid)) and dead not in at_work, "the next one"
        )
        application.answers.clear()
    agent_tools.wait_until(lambda: ended in stories(enrolled)[before:], "the end")
    assert {answer.status for answer in application.stop()} == {"ok"}
    assert (agent_bundles.v5.sha256 in quarantined(enrolled)) == (number == signal.SIGSEGV)


def candidate_answers(application):
    return application.answers and application.answers[-1].release == "digits 5.0.0"


def count(events, kind):
    return sum(event[0] == kind for event in events)


def test_a_stop_does_not_wait_for_a_server_that_hangs(agent_process, device_side, enrolled, agent_tools):
    device_side.stop()
    with socket.create_server(("127.0.0.1", device_side.port)) as silent:
        silent.settimeout(LIMIT_S)
        process, _ = agent_process()
        connection, _ = silent.accept()
        process.send_signal(signal.SIGTERM)
        assert process.wait(25) == 0  # a request for metadata may take 30 s
        connection.close()
    device_side.start_again()


def test_a_second_agent_on_the_same_folder_is_refused_in_one_sentence(agent_process, enrolled):
    agent_process()
    command = [sys.executable, "-m", "device_agent", "run", "--data", str(enrolled.root)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert second.returncode == int(ConflictError.exit_status)
    assert second.stderr == (
        f"error: another agent is running on '{enrolled.root}'\nhint: stop it first, or choose another folder\n"
    )


def test_the_supervisor_never_loads_numpy_or_a_runtime():
    script = (
        "import sys, device_agent.wiring, device_agent.field, device_agent.adapters.verification.trust, "
        "device_agent.adapters.network.mqtt, device_agent.adapters.verification.download, "
        "device_agent.adapters.identity.enrolment, device_agent.cli\n"
        "print([n for n in ('numpy', 'ai_edge_litert', 'edgefleet.runtimes', 'typer', 'rich') if n in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "[]\n"


def test_a_client_without_an_agent_gets_one_sentence(tmp_path):
    with InferenceClient(tmp_path / "none.sock") as client, pytest.raises(UnreachableError) as raised:
        client.info()
    assert raised.value.message == f"the agent does not answer on '{tmp_path / 'none.sock'}': No such file or directory"


def test_a_frame_that_cannot_be_read_is_answered_and_ends_only_its_own_connection(agent_process, digits_live):
    _, ready = agent_process()
    with socket.socket(socket.AF_UNIX) as hostile:
        hostile.settimeout(LIMIT_S)
        hostile.connect(ready["socket"])
        hostile.sendall(b"\x04\x00\x00\x00\xff\xff\xff\xff")
        assert b"version 255" in hostile.recv(4096)
        assert hostile.recv(4096) == b""
    with InferenceClient(ready["socket"], timeout_s=LIMIT_S) as client:
        assert client.infer(digits_live[0][0]).status == "no-model"


def test_state_and_events_reach_a_broker_that_asks_for_certificates(
    device_side, agent_tools, agent_bundles, digits_live, tmp_path
):
    mosquitto = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if mosquitto is None:
        pytest.skip("mosquitto is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    tls = device_side.folder
    config = tmp_path / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous false\nrequire_certificate true\nuse_identity_as_username true\n"
        f"cafile {tls / 'ca.pem'}\ncertfile {tls / 'server.pem'}\nkeyfile {tls / 'server.key'}\n"
    )
    (tls / "server.key").chmod(0o644)
    tls.chmod(0o755)
    for folder in tls.parents:  # mosquitto gives up root before it reads them
        if any(part.startswith("pytest-of-") for part in folder.parts):
            folder.chmod(0o755)
    device_side.broker = BrokerAddress(host="127.0.0.1", port=port, tls=True)
    folder = DataFolder(tmp_path / "device")
    broker = subprocess.Popen([mosquitto, "-c", str(config)], stderr=subprocess.DEVNULL)
    enrol(device_side.ticket(), folder)
    seen = []
    server = paho.Client(CallbackAPIVersion.VERSION2)
    server.tls_set(str(folder.ca), str(folder.certificate), str(folder.key))
    server.on_connect = lambda client, *_: client.subscribe("edgefleet/v1/acme/dev-1/#", 1)
    server.on_message = lambda _client, _data, message: seen.append((message.topic.rpartition("/")[2], message.payload))
    server.reconnect_delay_set(1, 1)
    server.connect_async("127.0.0.1", port)
    server.loop_start()
    command = [sys.executable, "-m", "device_agent", "run", "--data", str(folder.root), "--poll", "0.2"]
    agent = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        states = lambda: [decode_message(data, State) for channel, data in seen if channel == "state"]  # noqa: E731
        agent_tools.wait_until(lambda: states() and states()[-1].connected, "the device's state")
        device_side.assign(device_side.release(agent_bundles.wrong_parity))
        agent_tools.wait_until(lambda: states()[-1].quarantined == (agent_bundles.wrong_parity.sha256,), "a quarantine")
        agent_tools.wait_until(lambda: any(b"admission-refused" in data for channel, data in seen), "the refusal")
        events = [decode_message(data, Message) for channel, data in seen if channel == "event"]
        assert {message.device for message in events} == {"dev-1"}
        agent.terminate()
        assert agent.wait(LIMIT_S) == 0
        agent_tools.wait_until(lambda: not states()[-1].connected, "the farewell")
    finally:
        server.disconnect()
        server.loop_stop()
        for process in (agent, broker):
            process.kill()
            process.wait()
        agent.stdout.close()
