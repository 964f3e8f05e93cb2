# SPDX-License-Identifier: Apache-2.0
"""The project of ``edgefleet emulate init``: minutes from ``pip install`` to green, then its tests again and again.

    python -m benchmarks.campaign_template [--runs 50]

A new environment gets the project's requirements, with a wheel of this checkout, which needs the network; its tests
run in a network namespace that has none. Each run is a pytest of its own; none is repeated, the first that is not green
ends the campaign. The baseline, in the same call, is pip's part of the minutes.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.record import ROOT, skip, write

_NO_NETWORK = ("unshare", "--map-root-user", "--net")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=50)
    options = parser.parse_args()
    if shutil.which("unshare") is None or subprocess.run([*_NO_NETWORK, "true"], check=False).returncode:
        skip("this machine makes no network namespace (unshare --map-root-user --net)")
    with tempfile.TemporaryDirectory(prefix="edgefleet-template-") as name:
        result = _campaign(Path(name), options.runs)
    write("campaign_template", result)
    return 0 if result["green"] == options.runs else 1


def _campaign(folder: Path, runs: int) -> dict[str, Any]:
    project = _project(folder)
    began_s = time.monotonic()
    programs = _installed(folder / "venv", project)
    installed_s = time.monotonic() - began_s
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "HOME": str(folder)}
    environment.pop("XDG_CACHE_HOME", None)  # nothing of this machine has been built yet
    first_s = _green(project, programs, environment)
    green_s = time.monotonic() - began_s
    each = [_green(project, programs, environment) for _ in range(runs)]
    return {
        "minutes_to_green": round(green_s / 60, 2),
        "pip_minutes": round(installed_s / 60, 2),
        "times_pip": round(green_s / installed_s, 2),
        "first_run_s": round(first_s, 2),
        "runs": runs,
        "green": len(each),
        "retries": 0,
        "median_run_s": round(median(each), 2),
        "slowest_run_s": round(max(each), 2),
    }


def _project(folder: Path) -> Path:
    """Make the project, with a wheel of this checkout."""
    _do([sys.executable, "-m", "build", "--wheel", "--outdir", folder, ROOT], folder, os.environ)
    [wheel] = folder.glob("*.whl")
    init = ("emulate", "init", folder / "project", "--wheel", wheel)
    _do([sys.executable, "-m", "edgefleet.cli", *init], folder, os.environ)
    return folder / "project"


def _installed(environment: Path, project: Path) -> Path:
    """Install what the project asks for, as its CI files do; return the programs' folder."""
    _do([sys.executable, "-m", "venv", environment], project, os.environ)
    programs = environment / "bin"
    _do([programs / "python", "-m", "pip", "install", "--requirement", "requirements.txt"], project, os.environ)
    return programs


def _green(project: Path, programs: Path, environment: Mapping[str, str]) -> float:
    began_s = time.monotonic()
    _do([*_NO_NETWORK, programs / "python", "-m", "pytest", "-q", "-p", "no:cacheprovider"], project, environment)
    return time.monotonic() - began_s


def _do(command: Sequence[str | Path], folder: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{command} failed:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")


if __name__ == "__main__":
    sys.exit(main())
