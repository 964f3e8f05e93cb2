# SPDX-License-Identifier: Apache-2.0
"""A real external delegate in a real worker: it answers, is missing, refuses, lies, and dies in the middle."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from device_agent.adapters.children.worker_process import WorkerProcess
from device_agent.adapters.system.local_socket import listen
from device_agent.client import InferenceClient
from device_agent.core.serving import AcceleratorLost, LoadFailed, ModelRef, PlannedModel, Serving, ServingPlan
from device_agent.core.settings.accelerator_settings import AcceleratorSettings
from edgefleet.contracts.messages import RunningRelease

SOURCE = Path(__file__).parent / "fixtures" / "delegate.c"


@pytest.fixture(scope="session")
def delegate(tmp_path_factory):
    """The accelerator of the tests as a shared library."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler (cc or gcc) for the accelerator's library")
    library = tmp_path_factory.mktemp("delegate") / "libaccelerator.so"
    subprocess.run([compiler, "-O1", "-shared", "-fPIC", "-o", library, SOURCE, "-lm"], check=True)
    return library


class Board:
    """A worker process on a board with an accelerator, and what it reported."""

    def __init__(self, folder, tools, bundle, library, models=("digits",), **options):
        self.socket = folder / "worker.sock"
        self.listener = listen(self.socket)
        self.tools = tools
        self.reports = []
        slot = folder / "slots" / f"{bundle.sha256}.bundle"
        slot.parent.mkdir()
        slot.write_bytes(bundle.data)
        release = RunningRelease(name="digits", version=bundle.version, bundle_sha256=bundle.sha256)
        self.model = ModelRef(path=str(slot), release=release)
        given = AcceleratorSettings(id="test-npu", library=str(library), options=options, models=models)
        self.process = WorkerProcess(self.listener, readable=[slot.parent], accelerator=given)

    def start(self):
        self.process.start()
        self.process.serve(ServingPlan(number=1, models=(PlannedModel(primary=self.model),)))
        assert isinstance(self.until(Serving, LoadFailed), Serving)

    def until(self, *kinds):
        def found():
            self.reports += self.process.reports()
            return next((report for report in self.reports if isinstance(report, kinds)), None)

        return self.tools.wait_until(found, "the worker's report")

    def answers(self, pictures):
        with InferenceClient(self.socket, timeout_s=self.tools.limit_s) as client:
            return [client.infer(picture) for picture in pictures]

    def lost(self):
        """Return why the accelerator was lost, all reports so far taken."""
        self.process.stop()
        self.reports += self.process.reports()
        lost = [report for report in self.reports if isinstance(report, AcceleratorLost)]
        assert all(report.bundle_sha256 == self.model.release.bundle_sha256 for report in lost)
        self.reports.clear()
        return [report.detail for report in lost]


@pytest.fixture
def board(tmp_path, agent_tools, agent_bundles, delegate):
    boards = []

    def make(library=delegate, **options):
        boards.append(Board(tmp_path, agent_tools, agent_bundles.v1, library, **options))
        boards[-1].start()
        return boards[-1]

    yield make
    for made in boards:
        made.process.stop()
        made.listener.close()


def _expected(bundle, pictures, tmp_path):
    from edgefleet.contracts.bundle import open_bundle
    from edgefleet.runtimes.loaded_model import LoadedModel

    path = tmp_path / "expected.bundle"
    path.write_bytes(bundle.data)
    model = LoadedModel.from_bundle(open_bundle(path))
    return [int(np.argmax(model.answer([picture])[0])) for picture in pictures]


def test_a_model_on_the_accelerator_answers_as_on_the_processor(board, agent_bundles, digits_live, tmp_path):
    pictures = digits_live[0][:20]
    on_the_accelerator = board()
    answers = on_the_accelerator.answers(pictures)
    assert [answer.status for answer in answers] == ["ok"] * 20
    assert [answer.top_class for answer in answers] == _expected(agent_bundles.v1, pictures, tmp_path)
    assert on_the_accelerator.lost() == []


@pytest.mark.parametrize(
    ("options", "cause"),
    [
        ({"absent": "1"}, "there is no accelerator"),
        ({"refuses": "1"}, "the accelerator takes no such model"),
        ({"wrong": "1"}, "the worst difference of the parity vectors is "),
        ({"answers": "0"}, "the accelerator is gone"),
    ],
    ids=lambda value: "" if isinstance(value, str) else next(iter(value)),
)
def test_an_accelerator_that_fails_at_the_load_leaves_the_model_to_the_processor(
    options, cause, board, agent_bundles, digits_live, tmp_path
):
    pictures = digits_live[0][:5]
    without = board(**options)
    assert [answer.top_class for answer in without.answers(pictures)] == _expected(agent_bundles.v1, pictures, tmp_path)
    (detail,) = without.lost()
    assert cause in detail
    assert "the processor answers, worst difference " in detail


def test_a_library_that_is_not_there_leaves_the_model_to_the_processor(board, digits_live, tmp_path):
    without = board(library=tmp_path / "slots" / "libmissing.so")
    assert without.answers(digits_live[0][:1])[0].status == "ok"
    (detail,) = without.lost()
    assert "libmissing.so" in detail


def test_an_accelerator_that_dies_in_the_middle_loses_no_request_and_is_tried_again_at_the_next_start(
    board, agent_bundles, digits_live, tmp_path
):
    pictures = digits_live[0][:30]
    expected = _expected(agent_bundles.v1, pictures, tmp_path)
    dying = board(answers="20")
    for _ in range(2):
        answers = dying.answers(pictures)
        assert [answer.status for answer in answers] == ["ok"] * 30
        assert [answer.top_class for answer in answers] == expected
        (detail,) = dying.lost()
        assert "the accelerator is gone" in detail
        assert "the processor answers, worst difference " in detail
        dying.start()


def test_an_input_that_no_kernel_takes_does_not_cost_the_accelerator(board, digits_live):
    kept = board()
    wrong = np.zeros((3, 3), np.float32)
    assert [answer.status for answer in kept.answers([wrong, digits_live[0][0]])] == ["bad-input", "ok"]
    assert kept.lost() == []


def test_a_model_that_nobody_named_for_the_accelerator_stays_off_it(board, digits_live):
    off = board(models=("figures",), refuses="1")
    assert off.answers(digits_live[0][:1])[0].status == "ok"
    assert off.lost() == []


def test_a_lost_accelerator_is_told_to_the_fleet_and_takes_no_model_back(
    device, device_side, agent_bundles, digits_live
):
    pictures, _ = digits_live
    device_side.assign(device_side.release(agent_bundles.v1))
    device.until_running(agent_bundles.v1, pictures)
    before = device.agent.record
    device.agent._life.on_report(AcceleratorLost(bundle_sha256=agent_bundles.v1.sha256, detail="the stick was pulled"))
    (told,) = [event for event in device.events() if event.kind == "accelerator-lost"]
    assert (told.cause, told.detail) == ("accelerator-lost", "the stick was pulled")
    assert told.release.bundle_sha256 == agent_bundles.v1.sha256
    assert (device.agent.record.status, device.agent.record.quarantine) == (before.status, ())
    assert device.ask(pictures[0]).release == "digits 1.0.0"


def test_neither_its_options_nor_secrets_of_the_agents_environment_are_shown(board, delegate, monkeypatch):
    monkeypatch.setenv("SOME_TOKEN", "a-token")
    monkeypatch.setenv("HTTPS_PROXY", "http://ada:a-word@host:1")
    process = Path("/proc") / str(board().process.pid)
    assert str(delegate).encode() not in (process / "cmdline").read_bytes()
    environment = (process / "environ").read_bytes()
    assert str(delegate).encode() in environment
    assert [word for word in (b"a-token", b"a-word") if word in environment] == []
