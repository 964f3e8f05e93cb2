# SPDX-License-Identifier: Apache-2.0
"""What the agent takes of a device: bytes on disk, idle memory, idle processor time, seconds to the first inference.

    python -m benchmarks.footprint [--starts 11] [--idle-s 660] [--python PYTHON]

The agent under test is the device's wheel in a fresh environment, and beside it, for its size only, the whole project's
wheel with the extra ``device``; ``--python`` takes an environment that is there already. On disk is what pip put beside
Python and its own tools, bytecode of every module included. The agent runs with its default settings and a committed
model. It is idle when the process that asked the server has gone. The time over which idle processor time is counted
has polls in it that find nothing new, as the default period makes them; what is rarer, a whole check and a round of
upkeep, is told apart and added at its own period. Cold start is from the execution of ``edgefleet-agent run`` to the
first answer at a client that tries all the time.
"""

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.idle_agent import at_rest, first_answer_s
from benchmarks.process_figures import alone_bytes, cpu_s, ended_children_cpu_s, memory, mib, pss_bytes, wakeups
from benchmarks.record import ROOT, write
from device_agent.caretaking import PERIOD_S as UPKEEP_S
from device_agent.core.orders.agreement import CHECK_ANYWAY_S
from fleet_emulation.demo.run import example_folder
from fleet_emulation.kills import worker_pid
from fleet_emulation.live_stream import LiveStream
from fleet_emulation.rehearsal import Rehearsal, wait_until
from fleet_emulation.testbed import Testbed

LIMITS = {
    "installed_mb": 165.0,
    "idle_pss_mib": 60.0,
    "supervisor_pss_mib": 30.0,
    "idle_cpu_percent": 0.1,
    "first_inference_s": 0.5,
}
_IDLE_LIMIT_S = 60.0
_UPKEEP_LIMIT_S = 180.0
#: Installed sizes by package, in the environment that runs this; files that several list are counted once.
_SIZES = """
import importlib.metadata, importlib.util, json, pathlib
sizes = {}
for package in importlib.metadata.distributions():
    files = {path.resolve() for path in map(lambda f: pathlib.Path(f.locate()), package.files or []) if path.exists()}
    files |= {pathlib.Path(importlib.util.cache_from_source(str(path))) for path in files if path.suffix == ".py"}
    sizes[package.name] = sum(path.stat().st_size for path in files if path.exists())
print(json.dumps(sizes))
"""
_TOOLS = ("pip", "setuptools", "wheel")


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as name:
        folder = Path(name)
        python, whole = (options.python, options.python) if options.python else _install(folder)
        installed = {"device_wheel": _installed(python), "whole_wheel_with_extra": _installed(whole)}
        with Rehearsal(folder / "fleet", example_folder(), agents=1, seed=1) as rehearsal:
            for application in rehearsal.applications:
                application.stop()
            frame = next(iter(LiveStream(rehearsal.bed.examples / "digits.npz", seed=1)))
            face = [str(python.parent / "edgefleet-agent")]
            starts = [first_answer_s(rehearsal.bed, frame, face) for _ in range(options.starts)]
            idle = _idle(rehearsal.bed, options.idle_s)
    figures = {
        "installed_mb": installed["device_wheel"]["mb"],
        "idle_pss_mib": idle["pss_mib"],
        "supervisor_pss_mib": idle["supervisor"]["pss_mib"],
        "idle_cpu_percent": idle["cpu_percent"],
        "first_inference_s": round(statistics.median(starts), 3),
    }
    starts_s = [round(seconds, 3) for seconds in starts]
    met = {name: figures[name] <= limit for name, limit in LIMITS.items()}
    facts = {"installed": installed, "idle": idle, "first_inference_each_s": starts_s}
    write("footprint", {"figures": figures, "limits": LIMITS, "met": met, **facts})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--starts", type=int, default=11)
    parser.add_argument("--idle-s", type=float, default=660.0)
    parser.add_argument("--python", type=Path)
    return parser.parse_args()


def _install(folder: Path) -> tuple[Path, Path]:
    """Install the device's wheel, and the project's with the extra ``device``, in fresh environments; their Pythons."""
    spec = importlib.util.spec_from_file_location("build_device_package", ROOT / "scripts" / "build_device_package.py")
    assert spec is not None
    assert spec.loader is not None
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    project = maker.project_wheel(folder)
    device = maker.device_wheel(project, folder)
    return _environment(folder / "device", str(device)), _environment(folder / "whole", f"{project}[device]")


def _environment(folder: Path, requirement: str) -> Path:
    _run(sys.executable, "-m", "venv", folder)
    python = folder / "bin" / "python"
    _run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", requirement)
    compiling = [python, "-m", "compileall", "-q", folder / "lib"]
    subprocess.run(compiling, check=False, stdout=subprocess.DEVNULL)
    return python


def _run(*command: str | Path) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command[0]} failed: {done.stdout[-1000:]}{done.stderr[-1000:]}")


def _installed(python: Path) -> dict[str, Any]:
    found = json.loads(subprocess.run([python, "-c", _SIZES], capture_output=True, text=True, check=True).stdout)
    sizes = {name: size for name, size in found.items() if name not in _TOOLS}
    by_size = sorted(sizes.items(), key=lambda item: -item[1])
    total = sum(sizes.values())
    each = {name: round(size / 1e6, 2) for name, size in by_size}
    return {"mb": round(total / 1e6, 1), "mib": mib(total), "mb_by_package": each}


def _idle(bed: Testbed, idle_s: float) -> dict[str, Any]:
    """Wait until only supervisor and worker are there, and count what they take while nothing happens."""
    agent = bed.agents[0]
    supervisor = agent.program.pid
    worker = wait_until(lambda: worker_pid(agent), "the worker", limit_s=10.0)
    pids = wait_until(lambda: at_rest(supervisor, worker), "an idle agent", limit_s=_IDLE_LIMIT_S)
    check_s = ended_children_cpu_s(supervisor)
    wait_until(lambda: ended_children_cpu_s(supervisor) > check_s, "the first round of upkeep", limit_s=_UPKEEP_LIMIT_S)
    upkeep_s = ended_children_cpu_s(supervisor) - check_s
    with_polls = _over(idle_s, lambda: cpu_s(pids) + ended_children_cpu_s(supervisor)) / idle_s
    rarely = check_s / CHECK_ANYWAY_S + upkeep_s / UPKEEP_S
    return {
        "supervisor": memory(supervisor),
        "worker": memory(worker),
        "pss_mib": mib(pss_bytes(pids)),
        "alone_mib": mib(alone_bytes(pids)),
        "seconds": idle_s,
        "cpu_percent": round(100.0 * (with_polls + rarely), 4),
        "cpu_percent_with_polls": round(100.0 * with_polls, 4),
        "wakeups_per_s": _wakeups_per_s(pids),
        "whole_check_cpu_s": round(check_s, 2),
        "upkeep_cpu_s": round(upkeep_s, 2),
    }


def _over(seconds: float, count: Callable[[], float]) -> float:
    before = count()
    time.sleep(seconds)
    return count() - before


def _wakeups_per_s(pids: list[int]) -> dict[str, float]:
    """Return how often each thread woke in ten seconds."""
    before = wakeups(pids)
    time.sleep(10.0)
    after = wakeups(pids)
    return {name: (after[name] - count) / 10.0 for name, count in before.items() if name in after}


if __name__ == "__main__":
    main()
