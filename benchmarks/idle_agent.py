# SPDX-License-Identifier: Apache-2.0
"""What an idle agent with a committed model takes: memory of all its processes, and seconds to its first inference.

    python -m benchmarks.idle_agent [--repeats 5]

The agent runs with its default settings; it is idle when the process that asked the server has gone, as between any two
polls. Memory is PSS (proc(5), smaps_rollup): shared pages are counted once, divided among those who share them. Other
Python processes on the same machine make it smaller, so ``alone_mib`` says what it would be on a device that runs
nothing else: all anonymous pages, and of each mapped file the larger part that one of the processes holds. The
baseline, in the same call, is one Python process that only imports what the agent uses.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.process_figures import alone_bytes, ended_children_cpu_s, memory, mib, pss_bytes
from benchmarks.record import write
from device_agent.client import InferenceClient, RawTensor
from edgefleet.contracts.errors import UnreachableError
from fleet_emulation.demo.run import example_folder
from fleet_emulation.kills import worker_pid
from fleet_emulation.listeners import with_descendants
from fleet_emulation.live_stream import Frame, LiveStream
from fleet_emulation.processes import Program
from fleet_emulation.rehearsal import Rehearsal, wait_until
from fleet_emulation.testbed import Testbed, module

_IDLE_LIMIT_S = 60.0
_ANSWER_LIMIT_S = 30.0
_IMPORTS = "import ai_edge_litert.interpreter, cryptography.x509, numpy, paho.mqtt.client, sqlite3, tuf.ngclient"


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as name:
        folder = Path(name)
        with Rehearsal(folder / "fleet", example_folder(), agents=1, seed=1) as rehearsal:
            for application in rehearsal.applications:
                application.stop()
            frame = next(iter(LiveStream(rehearsal.bed.examples / "digits.npz", seed=1)))
            first_s = [first_answer_s(rehearsal.bed, frame, module("device_agent")) for _ in range(options.repeats)]
            agent = rehearsal.bed.agents[0]
            worker = wait_until(lambda: worker_pid(agent), "the worker", limit_s=10.0)
            pids = wait_until(lambda: at_rest(agent.program.pid, worker), "an idle agent", limit_s=_IDLE_LIMIT_S)
            taken = {
                "supervisor": memory(agent.program.pid),
                "worker": memory(worker),
                "processes": len(pids),
                "pss_mib": mib(pss_bytes(pids)),
                "alone_mib": mib(alone_bytes(pids)),
            }
        baseline = _baseline()
    write(
        "idle_agent",
        {
            "baseline": f"one Python process after: {_IMPORTS}",
            "alone_ratio": round(taken["alone_mib"] / baseline["alone_mib"], 3),
            "agent": taken,
            "baseline_process": baseline,
            "first_inference_s": {
                "median": round(statistics.median(first_s), 3),
                "each": [round(seconds, 3) for seconds in first_s],
            },
        },
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    return parser.parse_args()


def first_answer_s(bed: Testbed, frame: Frame, face: list[str]) -> float:
    """Stop the agent, start it again by its command line, and return the seconds from its start to its first answer."""
    agent = bed.agents[0]
    agent.program.stop()
    command = [*face, "run", "--data", str(agent.folder)]
    started = time.monotonic()
    program = Program(agent.device, command, log=bed.logs / "restarted.log")
    bed.agents[0] = type(agent)(agent.device, agent.folder, program, agent.socket)
    while not _answered(agent.socket, frame):
        if time.monotonic() - started > _ANSWER_LIMIT_S:
            sys.exit(f"the agent did not answer: {program.last_words()}")
        time.sleep(0.002)
    return time.monotonic() - started


def at_rest(supervisor: int, worker: int) -> list[int]:
    """Return the agent's processes once it has asked the server and nothing but supervisor and worker is there."""
    pids = sorted(set(with_descendants([supervisor])))
    asked = ended_children_cpu_s(supervisor) > 0.0
    return pids if asked and pids == sorted([supervisor, worker]) else []


def _answered(path: Path, frame: Frame) -> bool:
    try:
        with InferenceClient(path) as client:
            answer = client.infer(RawTensor(frame.pixels.tobytes(), str(frame.pixels.dtype), frame.pixels.shape))
    except UnreachableError:
        return False
    return answer.status == "ok"


def _baseline() -> dict[str, Any]:
    """Return the memory of one process that has imported everything."""
    code = f"{_IMPORTS}\nprint('ready', flush=True)\nimport sys\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        return {**memory(process.pid), "alone_mib": mib(alone_bytes([process.pid]))}


if __name__ == "__main__":
    main()
