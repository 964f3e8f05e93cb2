# SPDX-License-Identifier: Apache-2.0
"""The child that talks to the server: it comes when there is something to ask, and goes by itself."""

import os
import signal
import threading
from pathlib import Path

import pytest

from device_agent.adapters.children.repositories_process import RepositoriesProcess
from device_agent.core.orders.release_orders import TargetFile
from device_agent.core.orders.repository_calls import Failed, error_of, failed
from device_agent.errors import CorruptDownloadError, TrustRefusedError
from edgefleet.contracts.errors import (
    EdgeFleetError,
    FileMissingError,
    SettingError,
    StorageError,
    UnreachableError,
)


@pytest.fixture
def start(enrolled):
    made = []

    def make(**settings):
        made.append(RepositoriesProcess(enrolled, reserve_bytes=0, **settings))
        return made[-1]

    yield make
    for each in made:
        each.close()


def children():
    """Living children of this thread that talk to repositories, and dead ones that nobody took note of."""
    found = {}
    for text in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        state = Path(f"/proc/{text}/stat").read_text().rpartition(")")[2].split()[0]
        if state == "Z" or b"device_agent.repositories.main" in Path(f"/proc/{text}/cmdline").read_bytes():
            found[int(text)] = state
    return found


def test_a_child_answers_many_checks_and_goes_when_none_comes(start, device_side, agent_tools):
    device_side.assign(None)
    patient = start()
    patient.check(0)
    (child,) = children()
    counter = device_side.assign(None)  # else a look would be enough
    assert patient.check(0).counter == counter
    assert list(children()) == [child]
    patient.close()
    repositories = start(linger_s=0.5)
    device_side.assign(None)
    repositories.check(0)

    def gone():
        repositories.reap()
        return not children()

    agent_tools.wait_until(gone, "the child's end")
    counter = device_side.assign(None)
    assert repositories.check(0).counter == counter, "another one answers"


def test_a_child_that_is_killed_at_rest_is_replaced(start, device_side):
    device_side.assign(None)
    repositories = start()
    repositories.check(0)
    (child,) = children()
    os.kill(child, signal.SIGKILL)
    counter = device_side.assign(None)
    assert repositories.check(0).counter == counter
    assert child not in children()


def test_ctrl_c_is_left_to_the_agent(start, device_side):
    device_side.assign(None)
    repositories = start()
    repositories.check(0)
    (child,) = children()
    os.kill(child, signal.SIGINT)
    counter = device_side.assign(None)
    assert repositories.check(0).counter == counter
    assert list(children()) == [child]


def test_a_child_that_dies_twice_over_a_call_is_one_sentence(start, device_side, monkeypatch, tmp_path):
    device_side.assign(None)
    (tmp_path / "sitecustomize.py").write_text("import os, sys\nif '-m' in sys.orig_argv: os.kill(os.getpid(), 11)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with pytest.raises(EdgeFleetError) as raised:
        start().check(0)
    assert raised.value.message == "the check of the repositories ended by the signal SIGSEGV"
    assert raised.value.hint == "the agent tries again by itself; see the agent's log"
    monkeypatch.undo()


def test_a_server_that_takes_for_ever_over_its_metadata_is_given_up(start, device_side):
    device_side.assign(None)
    with device_side.silent(), pytest.raises(EdgeFleetError) as raised:
        start(check_limit_s=1.0).check(0)
    assert raised.value.message == "the check of the repositories took longer than 1 s"
    assert children() == {}
    assert start().check(0).wanted == (), "with the usual patience"


def test_a_cancelled_download_stops_at_once_and_is_resumed(start, device_side, enrolled, agent_bundles):
    target = device_side.release(agent_bundles.v1)
    sha256 = agent_bundles.v1.sha256
    wanted = TargetFile(f"digits/1.0.0/{sha256}.digits-1.0.0-linux-x86_64.bundle", sha256, target.length)
    repositories = start()
    with device_side.silent(), pytest.raises(EdgeFleetError, match=r"^the download was cancelled$"):
        repositories.fetch(wanted, lambda: True)
    assert repositories.fetch(wanted, lambda: False).read_bytes() == agent_bundles.v1.data


def test_checks_go_on_during_a_download(start, device_side, agent_bundles):
    device_side.assign(None)
    repositories = start()
    target = TargetFile("digits/1.0.0/nothing.bundle", "0" * 64, 1000)
    ended = threading.Event()
    refused = []

    def download():
        try:
            repositories.fetch(target, ended.is_set)
        except EdgeFleetError as error:
            refused.append(error.message)

    with device_side.silent("/image/targets/"):
        thread = threading.Thread(target=download)
        thread.start()
        assert repositories.check(0).wanted == ()
        ended.set()
        thread.join()
    assert refused == ["the download was cancelled"]


def test_what_is_missing_on_the_device_is_told_as_by_the_device_itself(start, enrolled):
    enrolled.root_metadata("director").unlink()
    with pytest.raises(FileMissingError, match=r"^the trusted root 'director.root.json' is missing$"):
        start().check(0)


@pytest.mark.parametrize(
    "error",
    [
        TrustRefusedError("mismatch", "m", hint="h"),
        CorruptDownloadError("m", hint="h"),
        StorageError("m", hint="h"),
        UnreachableError("m", hint="h"),
        FileMissingError("m", hint="h"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_an_error_is_the_same_on_the_other_side(error):
    back = error_of(failed(error))
    assert (type(back), vars(back)) == (type(error), vars(error))


def test_an_error_that_the_wire_does_not_know_is_its_nearest_kind():
    back = error_of(failed(SettingError("m", hint="h")))
    assert (type(back).__name__, back.message) == ("InputError", "m")
    assert type(error_of(Failed(error="Other", message="m", hint="h"))) is EdgeFleetError
