# SPDX-License-Identifier: Apache-2.0
"""The real agent of before (schema 1) and this one take a device over from each other, up and down and up again."""

import contextlib
import json
import os
import sqlite3
import subprocess
import sys

import pytest

from device_agent.adapters.storage.state_file import read_record
from device_agent.client import InferenceClient, RawTensor

#: The last commit before the device's record, its outbox and its messages got their second schema.
SCHEMA_1 = "fe9840e"
WAIT_S = 120.0
#: An application of that time, which asks once for each line that it gets.
_APPLICATION = """
import sys
from device_agent.client import InferenceClient, RawTensor
with InferenceClient(sys.argv[1], timeout_s=60.0) as client:
    for line in sys.stdin:
        answer = client.infer(RawTensor(bytes.fromhex(line), "float32", (1, 8, 8, 1)))
        print(answer.status, answer.release, flush=True)
"""


class Generation:
    """Agents and applications of one age, on one device."""

    def __init__(self, folder, code=None):
        self.folder = folder
        self._environment = dict(os.environ) | (
            {"PYTHONPATH": str(code), "PYTHONDONTWRITEBYTECODE": "1"} if code else {}
        )
        self._code = code
        self._running = []

    def command(self, *arguments):
        return {"args": [sys.executable, *arguments], "cwd": self._code, "env": self._environment, "text": True}

    @contextlib.contextmanager
    def agent(self):
        """Run an agent, stopped cleanly at the end; gives its socket."""
        with (self.folder.root / "agent.log").open("a") as log:
            run = self.command("-m", "device_agent", "run", "--data", str(self.folder.root), "--poll", "0.1")
            process = subprocess.Popen(**run, stdout=subprocess.PIPE, stderr=log)
        try:
            line = process.stdout.readline()
            assert line, (self.folder.root / "agent.log").read_text()
            yield json.loads(line)["socket"]
            process.terminate()
            assert process.wait(60) == 0, (self.folder.root / "agent.log").read_text()
        finally:
            process.kill()
            process.wait()
            process.stdout.close()

    @contextlib.contextmanager
    def application(self, socket):
        """Give a function that asks with a picture and returns status and release."""
        process = subprocess.Popen(
            **self.command("-c", _APPLICATION, socket), stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

        def ask(picture):
            process.stdin.write(picture.tobytes().hex() + "\n")
            process.stdin.flush()
            return tuple(process.stdout.readline().strip().split(" ", 1))

        try:
            yield ask
        finally:
            process.kill()
            process.communicate()

    def reads(self):
        """Return the record as agents of this age read it."""
        program = (
            "import sys, msgspec; from pathlib import Path\n"
            "try: from device_agent.adapters.storage.state_file import read_record\n"
            "except ImportError: from device_agent.adapters.state_file import read_record\n"
            "print(msgspec.json.encode(read_record(Path(sys.argv[1]))).decode())"
        )
        run = self.command("-c", program, str(self.folder.state))
        return json.loads(subprocess.run(**run, check=True, capture_output=True).stdout)


@pytest.fixture
def then(enrolled, older_code):
    return Generation(enrolled, older_code(SCHEMA_1))


@pytest.fixture
def now(enrolled):
    return Generation(enrolled)


@pytest.fixture
def wait(agent_tools):
    return lambda condition, what: agent_tools.wait_until(condition, what, WAIT_S)


def rows(folder):
    """Epoch, last number, and all messages by number, as they lie in the outbox."""
    with contextlib.closing(sqlite3.connect(f"{folder.outbox.as_uri()}?mode=ro", uri=True)) as database:
        ((epoch, last),) = database.execute("SELECT epoch, last_sequence FROM outbox").fetchall()
        found = database.execute("SELECT sequence, data FROM message ORDER BY sequence").fetchall()
    return epoch, last, {sequence: json.loads(data) for sequence, data in found}


def told(folder):
    bodies = [message["body"] for message in rows(folder)[2].values()]
    return [(body["kind"], body["cause"]) for body in bodies if body["type"] == "event"]


def active(record):
    return [member.release.version for member in record.active]


@pytest.mark.slow
def test_both_take_a_device_over_from_each_other_in_the_middle_of_a_trial(
    then, now, wait, enrolled, device_side, agent_tools, agent_bundles, digits_live
):
    pictures = digits_live[0]
    long = agent_tools.quick_policy(requests=100)

    with then.agent() as socket, then.application(socket) as ask:
        device_side.assign(device_side.release(agent_bundles.v1))
        wait(
            lambda: ask(pictures[0]) and ("committed", "trial-passed") in told(enrolled), "a commit by the older agent"
        )
        device_side.assign(device_side.release(agent_bundles.wrong_parity))
        wait(lambda: any(kind == "quarantined" for kind, _ in told(enrolled)), "a quarantine by the older agent")
        device_side.assign(device_side.release(agent_bundles.v5, long))
        wait(lambda: ask(pictures[0]) == ("ok", "digits 5.0.0"), "its next trial")
        assert {ask(picture) for picture in pictures[:10]} == {("ok", "digits 5.0.0")}
        wait(lambda: read_record(enrolled.state).progress["digits"].requests >= 5, "its counts on the disk")
    left, (epoch, last, messages) = read_record(enrolled.state), rows(enrolled)

    with now.agent() as socket, InferenceClient(socket, timeout_s=60.0) as client:
        taken = read_record(enrolled.state)
        assert (taken.status, taken.counter, taken.order_counter) == ("trial", left.counter, left.order_counter)
        assert (active(taken), taken.candidate) == (["1.0.0"], left.candidate)
        assert taken.progress["digits"].requests >= left.progress["digits"].requests >= 5
        assert [entry.bundle_sha256 for entry in taken.quarantine] == [agent_bundles.wrong_parity.sha256]

        def ask(picture):
            answer = client.infer(RawTensor(picture.tobytes(), "float32", (1, 8, 8, 1)))
            return answer.status, answer.release

        wait(lambda: ask(pictures[0]) and active(read_record(enrolled.state)) == ["5.0.0"], "the commit by this agent")
        device_side.assign(device_side.release(agent_bundles.v3, long))
        wait(lambda: ask(pictures[0]) == ("ok", "digits 3.0.0"), "a trial by this agent")
        assert {ask(picture) for picture in pictures[:10]} == {("ok", "digits 3.0.0")}
        wait(lambda: read_record(enrolled.state).progress["digits"].requests >= 5, "its counts on the disk")
    left = read_record(enrolled.state)
    assert rows(enrolled)[0] == epoch
    assert {number: rows(enrolled)[2][number] for number in messages} == messages

    older = then.reads()
    assert (older["status"], older["counter"], older["active"]["version"]) == ("trial", left.counter, "5.0.0")
    assert (older["candidate"]["version"], older["previous"]["version"]) == ("3.0.0", "1.0.0")
    assert older["progress"]["requests"] == left.progress["digits"].requests >= 5
    assert older["quarantine"] == [agent_bundles.wrong_parity.sha256]
    with then.agent() as socket, then.application(socket) as ask:
        wait(lambda: ask(pictures[0]) and told(enrolled).count(("committed", "trial-passed")) == 3, "its commit")
        assert ask(pictures[0]) == ("ok", "digits 3.0.0")

    with now.agent() as socket, then.application(socket) as ask:
        assert ask(pictures[0]) == ("ok", "digits 3.0.0")
        final = read_record(enrolled.state)
    assert (active(final), final.previous[0].release.version, final.counter) == (["3.0.0"], "5.0.0", left.counter)
    assert [entry.bundle_sha256 for entry in final.quarantine] == [agent_bundles.wrong_parity.sha256]
    again, last_now, messages_now = rows(enrolled)
    assert (again, sorted(messages_now)) == (epoch, list(range(1, last_now + 1)))
    assert last_now > last
    assert not any(kind == "state-repaired" for kind, _ in told(enrolled))
    assert not list(enrolled.root.glob("*.damaged*"))
