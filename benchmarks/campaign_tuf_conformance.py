# SPDX-License-Identifier: Apache-2.0
"""The agent's TUF client against theupdateframework/tuf-conformance, all of it, with no failure expected.

    python -m benchmarks.campaign_tuf_conformance [CHECKOUT]

CHECKOUT is a checkout of the suite (or EDGEFLEET_TUF_CONFORMANCE names it); it needs the Debian package ``faketime``.
Exits with 1 if one test fails, is skipped, or is expected to fail.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from importlib.metadata import version
from pathlib import Path

from benchmarks.record import skip, write

#: As the suite has it at the commit that the result names.
TESTS = 113


def main() -> int:
    checkout = _checkout()
    with tempfile.TemporaryDirectory(prefix="edgefleet-campaign-") as folder:
        report = Path(folder) / "report.xml"
        entrypoint = f"{sys.executable} -m device_agent tuf-client"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
        subprocess.run(
            [*command, "tuf_conformance", "--entrypoint", entrypoint, f"--junitxml={report}"],
            cwd=checkout,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(checkout), os.getenv("PYTHONPATH")]))},
            check=False,
        )
        if not report.exists():
            sys.exit("the suite did not start; see its words above")
        tally = _tally(report)
    write(
        "campaign_tuf_conformance",
        {"suite": "theupdateframework/tuf-conformance", "commit": _commit(checkout), "tuf": version("tuf"), **tally},
    )
    return 0 if tally["passed"] == tally["tests"] and tally["tests"] >= TESTS else 1


def _checkout() -> Path:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", nargs="?", default=os.environ.get("EDGEFLEET_TUF_CONFORMANCE"))
    given = parser.parse_args().checkout
    if given is None:
        skip("name a checkout of theupdateframework/tuf-conformance")
    if shutil.which("faketime") is None:
        skip("the suite needs the Debian package 'faketime'")
    return Path(given).resolve()


def _tally(report: Path) -> dict[str, int]:
    """Count outcomes; a test that was skipped or expected to fail is none that passed."""
    cases = list(ElementTree.parse(report).iter("testcase"))  # noqa: S314  pytest wrote it just now
    failed = sum(any(part.tag in ("failure", "error") for part in case) for case in cases)
    left_out = sum(any(part.tag == "skipped" for part in case) for case in cases)
    return {
        "tests": len(cases),
        "passed": len(cases) - failed - left_out,
        "failed": failed,
        "skipped_or_expected_to_fail": left_out,
    }


def _commit(checkout: Path) -> str:
    shown = subprocess.run(
        ["git", "-C", str(checkout), "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    )
    return shown.stdout.strip() or "unknown"


if __name__ == "__main__":
    sys.exit(main())
