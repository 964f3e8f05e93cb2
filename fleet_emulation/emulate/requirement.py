# SPDX-License-Identifier: Apache-2.0
"""How another machine gets the EdgeFleet that runs here, as a line of a requirements file."""

import json
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

EXTRA = "emulation"
_NAMED = f"edgefleet[{EXTRA}]"


def requirement(wheel: Path | None = None) -> str:
    """Return the requirement: a wheel that lies in the project, the repository it came from, or the release.

    What was installed from a repository is named by its commit (PEP 610, direct_url.json).
    """
    if wheel is not None:
        return f"./wheels/{wheel.name}[{EXTRA}]"
    try:
        installed = distribution("edgefleet")
    except PackageNotFoundError:
        return _NAMED
    origin = json.loads(installed.read_text("direct_url.json") or "{}")
    vcs = origin.get("vcs_info")
    if vcs is not None:
        return f"{_NAMED} @ {vcs['vcs']}+{origin['url']}@{vcs['commit_id']}"
    return f"{_NAMED}=={installed.version}"
