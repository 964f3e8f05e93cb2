# SPDX-License-Identifier: Apache-2.0
"""What all benchmarks share: where results go, how a run is timed, how one is skipped with a reason."""

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
SHARED = Path(os.environ.get("EDGEFLEET_SHARED", ROOT.parent / "shared"))
SKIPPED = 77
_KIB = 1024


class Cost(NamedTuple):
    """What a process took: wall time, processor time, and the largest resident set of it or a child."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


def skip(reason: str) -> NoReturn:
    """End this benchmark without failing."""
    print(f"skipped: {reason}")
    sys.exit(SKIPPED)


def cost_of(command: Sequence[str | Path], *, env: dict[str, str] | None = None) -> Cost:
    """Run a command to its end, alone, and return what it took; a failure ends the benchmark."""
    started = time.monotonic()
    with subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env={**os.environ, **(env or {})}
    ) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    took_s = time.monotonic() - started
    if process.returncode:
        sys.exit(f"{command[0]} failed: {output.decode(errors='replace')[-2000:]}")
    return Cost(took_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * _KIB)


def median(costs: Sequence[Cost]) -> Cost:
    """Return the cost with the median wall time."""
    return sorted(costs, key=lambda cost: cost.wall_s)[len(costs) // 2]


def write(name: str, document: dict[str, Any]) -> None:
    """Print a result and keep it as ``results/NAME.json``, with the machine it was measured on."""
    print(keep(name, document))


def keep(name: str, document: dict[str, Any]) -> str:
    """Keep a result, such as that of the part of a long run that is done, and return its text."""
    machine = {"architecture": platform.machine(), "system": platform.system(), "cpus": os.cpu_count()}
    text = json.dumps({"benchmark": name, "machine": machine, **document}, indent=2, ensure_ascii=False)
    RESULTS.mkdir(parents=True, exist_ok=True)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    return text


def kept(name: str) -> dict[str, Any]:
    """Return the result that was kept under a name; empty if there is none."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found
