# SPDX-License-Identifier: Apache-2.0
"""The C client against the real worker, compiled with every warning as an error and with sanitizers."""

import os
import subprocess

import pytest

from device_agent.adapters.children.worker_process import WorkerProcess
from device_agent.adapters.system.local_socket import listen
from device_agent.client import InferenceClient
from device_agent.core.serving import Died, ModelRef, PlannedModel, ServingPlan
from edgefleet.contracts.messages import RunningRelease


@pytest.fixture(scope="module")
def program(with_the_c_client):
    return with_the_c_client("c_client.c")


@pytest.fixture
def serving(tmp_path, agent_bundles):
    made = agent_bundles.v1
    path = tmp_path / f"{made.sha256}.bundle"
    path.write_bytes(made.data)
    release = RunningRelease(name="digits", version=made.version, bundle_sha256=made.sha256)
    listener = listen(tmp_path / "c.sock")
    process = WorkerProcess(listener, readable=[tmp_path])

    def start():
        process.start()
        planned = PlannedModel(primary=ModelRef(path=str(path), release=release))
        process.serve(ServingPlan(number=1, models=(planned,)))

    start()
    yield tmp_path / "c.sock", process, start
    process.stop()
    listener.close()


@pytest.mark.parametrize("shared", ["0", "1"], ids=["socket", "shared memory"])
def test_the_c_client_answers_as_the_python_one_and_survives_a_killed_worker(
    program, serving, tmp_path, digits_live, agent_tools, shared
):
    path, process, start = serving
    pictures = digits_live[0][:4]
    (tmp_path / "pictures.bin").write_bytes(pictures.tobytes())
    with InferenceClient(path, timeout_s=agent_tools.limit_s, shared_memory=False) as client:
        expected = [client.infer(picture) for picture in pictures]
    with subprocess.Popen(
        [program, path, shared, tmp_path / "pictures.bin"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout.readline() == "1|-1||0.0000||no model 'another' is installed, there is 'digits'|\n"
        for place, wanted in enumerate(expected):
            status, top, label, confidence, release, _, outputs = child.stdout.readline().strip().split("|")
            assert (status, int(top), label, release) == ("0", wanted.top_class, wanted.label, "digits 1.0.0")
            assert float(confidence) == pytest.approx(wanted.confidence, abs=1e-4)
            assert [float(value) for value in outputs.split(",")] == pytest.approx(wanted.outputs[0], abs=1e-5)
            assert child.stdout.readline().startswith(f"0|{top}|")
            assert child.stdout.readline() == "0|4||0.0000|digits 1.0.0||\n"
            twice = child.stdout.readline()
            assert twice.startswith("5|-1||0.0000|digits 1.0.0|the request ")
            assert twice.endswith(" has its label already|\n")
            assert child.stdout.readline() == "2|-1||0.0000|digits 1.0.0|10 is no class number of the model|\n"
            if place == 1:
                os.kill(process.pid, 9)
                agent_tools.wait_until(lambda: any(isinstance(r, Died) for r in process.reports()), "the worker's end")
                start()
            child.stdin.write("\n")
            child.stdin.flush()
        assert child.stdout.readline().startswith("2|-1||0.0000|digits 1.0.0|a sample of input")
        assert child.stdout.readline().startswith("-2|-1||0.0000||an input has another dtype or rank")
        assert child.stdout.readline() == "1|-1||0.0000||no model 'no-such' is installed, there is 'digits'|\n"
        assert child.wait(agent_tools.limit_s) == 0
