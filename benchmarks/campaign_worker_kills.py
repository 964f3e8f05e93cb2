# SPDX-License-Identifier: Apache-2.0
"""A thousand SIGKILLs of the worker: the supervisor lives on, does not grow, and each time there is an answer again.

    python -m benchmarks.campaign_worker_kills [--kills 1000]

The supervisor is this process, with its real adapters for state, outbox, slots and worker, and no server. Kills are
paced under the limit of crash loops by a clock that is put forward by two minutes after each; ``storm`` are kills in
quick succession, after which the restarts wait longer and longer, as documented, and the model is not blamed: a SIGKILL
comes from outside. The baseline is the supervisor's memory after its first kills.
"""

import argparse
import os
import signal
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from benchmarks.record import ROOT, write
from benchmarks.serving_models import pack_bundle
from device_agent.adapters.identity import DataFolder
from device_agent.adapters.local_socket import listen
from device_agent.adapters.worker_process import WorkerProcess
from device_agent.agent import Agent
from device_agent.client import InferenceClient
from device_agent.core.identity import Identity
from device_agent.core.orders import Order, TargetFile
from device_agent.core.serving import AdmissionRequest, AdmissionVerdict
from device_agent.process_bounds import rss_bytes
from device_agent.settings import AgentSettings
from device_agent.wiring import assemble
from edgefleet.contracts.errors import UnreachableError
from edgefleet.contracts.manifest import Preprocessing

_MIB = 1 << 20
_SKIP_S = 120.0
_ANSWER_LIMIT_S = 30.0


class PutForward:
    """The machine's clocks, which can be put forward."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def wall(self) -> float:
        """Return Unix seconds."""
        return time.time() + self.ahead_s

    def monotonic(self) -> float:
        """Return seconds since some fixed moment."""
        return time.monotonic() + self.ahead_s


class NoServer:
    """Both repositories, out of reach."""

    def check(self, seen_counter: int) -> Order:
        """Say that there is no server."""
        raise UnreachableError(f"no server knows of more than order {seen_counter}", hint="there is none")

    def fetch(self, target: TargetFile, cancelled: Any) -> Path:
        """Say that there is no server."""
        raise UnreachableError(f"no server has {target.path} {cancelled}", hint="there is none")


class NoAdmission:
    """Nothing is ever admitted."""

    def admit(self, request: AdmissionRequest) -> AdmissionVerdict:
        """Refuse."""
        return AdmissionVerdict(kind="refused", cause="nothing-to-admit", detail=request.profile)


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as name:
        result = kills(Path(name), options.kills)
    write("campaign_worker_kills", {"baseline": "the supervisor's memory after its first kills", **result})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    return parser.parse_args()


def kills(folder: Path, count: int, *, storm: int = 6) -> dict[str, Any]:
    """Kill the worker so many times, and tell how the supervisor took it."""
    data = DataFolder(folder / "device")
    data.root.mkdir()
    model = _factory(folder)
    _enrolled(data)
    clock = PutForward()
    listener = listen(data.socket)
    worker = WorkerProcess(listener, readable=[folder])
    with ThreadPoolExecutor(1) as executor, InferenceClient(data.socket, timeout_s=_ANSWER_LIMIT_S) as client:
        agent = assemble(
            data,
            AgentSettings(factory_model=str(model)),
            inference=worker,
            repositories=NoServer(),
            admission=NoAdmission(),
            executor=executor,
            clock=clock,
        )
        agent.start()
        try:
            _back(agent, worker, client, 0)
            back_s, memory = [], [rss_bytes()]
            for _ in range(count):
                back_s.append(_killed(agent, worker, client))
                memory.append(rss_bytes())
                clock.ahead_s += _SKIP_S
            stormy_s = [_killed(agent, worker, client) for _ in range(storm)]
        finally:
            agent.stop()
            listener.close()
    warm = min(50, count // 2)
    return {
        "kills": count,
        "supervisor_restarts": 0,
        "supervisor_grew_mib": round((memory[-1] - memory[warm]) / _MIB, 2),
        "back_p50_s": round(sorted(back_s)[len(back_s) // 2], 3),
        "back_slowest_s": round(max(back_s), 3),
        "storm_back_s": [round(seconds, 3) for seconds in stormy_s],
    }


def _factory(folder: Path) -> Path:
    model = (ROOT / "examples" / "digits" / "v1_float32.tflite").read_bytes()
    path = folder / "factory.bundle"
    path.write_bytes(pack_bundle("digits", "1.0.0", model, Preprocessing()))
    return path


def _enrolled(data: DataFolder) -> None:
    identity = Identity(server_url="https://127.0.0.1:1", tenant="acme", device="dev-1", profile="linux-x86_64")
    data.identity.parent.mkdir(parents=True, exist_ok=True)
    data.identity.write_bytes(msgspec.json.encode(identity))


def _killed(agent: Agent, worker: WorkerProcess, client: InferenceClient) -> float:
    """Kill the worker, and return the seconds until there is an answer again."""
    assert worker.pid is not None
    pid, started = worker.pid, time.monotonic()
    os.kill(pid, signal.SIGKILL)
    _back(agent, worker, client, pid)
    return time.monotonic() - started


def _back(agent: Agent, worker: WorkerProcess, client: InferenceClient, before: int) -> None:
    """Tick until another worker than before serves, then ask it."""
    until = time.monotonic() + _ANSWER_LIMIT_S
    while worker.pid in (None, before) or not _serving(agent):
        assert time.monotonic() < until, "there is no worker again"
        agent.tick()
        time.sleep(0.002)
    answer = client.infer(np.zeros((1, 8, 8, 1), np.float32))
    assert answer.status == "ok", answer


def _serving(agent: Agent) -> bool:
    return not agent.timers.is_set("answer") and not agent.timers.is_set("restart")


if __name__ == "__main__":
    main()
