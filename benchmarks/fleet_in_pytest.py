# SPDX-License-Identifier: Apache-2.0
"""A hundred emulated boards and two arm64 Linux devices in one pytest run: up, inferring, and gone.

    python -m benchmarks.fleet_in_pytest [--repeats 5]

Runs the test that does it, each time in a pytest of its own, and keeps the seconds until all are up, have answered and
are gone. The baseline, in the same call, is a pytest run with six boards, one of each kind.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from xml.etree import ElementTree

from benchmarks.record import ROOT, skip, write

_TESTS = "tests/fleet_emulation/pytest_plugin/test_fleets.py"
_MANY = f"{_TESTS}::test_a_hundred_boards_and_two_linux_devices_are_up_at_once_and_leave_no_process"
_SIX = f"{_TESTS}::test_a_board_of_each_kind_answers_as_the_reference_does"
_SECONDS = re.compile(r"up in ([\d.]+), answered after ([\d.]+), gone after ([\d.]+)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    runs = [_run(_MANY) for _ in range(options.repeats)]
    six_s = median(_run(_SIX)[0] for _ in range(options.repeats))
    each = [_told(report) for _, report in runs]
    whole_s = median(took_s for took_s, _ in runs)
    write(
        "fleet_in_pytest",
        {
            "boards": 100,
            "linux_devices": 2,
            "load_before": round(os.getloadavg()[0], 2),
            **{name: median(run[name] for run in each) for name in ("up_s", "answered_s", "gone_s")},
            "whole_run_s": round(whole_s, 1),
            "six_boards_s": round(six_s, 1),
            "times_six_boards": round(whole_s / six_s, 1),
            "each": each,
        },
    )


def _run(test: str) -> tuple[float, str]:
    """Run a test in a pytest of its own; return its seconds, start of Python included, and what it recorded."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}", test]
        began_s = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        took_s = time.monotonic() - began_s
        if done.returncode:
            sys.exit(done.stdout[-3000:])
        case = ElementTree.parse(report).getroot().find(".//testcase")  # noqa: S314  (that pytest wrote it)
        if case is None:
            sys.exit(f"{test} is no test")
        if (skipped := case.find("skipped")) is not None:
            skip(skipped.get("message", ""))
        recorded = case.find("properties/property[@name='seconds']")
        return took_s, "" if recorded is None else recorded.get("value", "")


def _told(report: str) -> dict[str, float]:
    found = _SECONDS.search(report)
    if not found:
        sys.exit(f"the test recorded no seconds: {report!r}")
    return dict(zip(("up_s", "answered_s", "gone_s"), map(float, found.groups()), strict=True))


if __name__ == "__main__":
    main()
