# SPDX-License-Identifier: Apache-2.0
"""The commands of two guides, run as they stand against a real server and a real device."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.identity.enrolment import enrol, read_ticket

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "how-to"


@pytest.fixture(name="run_guide")
def _run_guide(new_server: Callable[..., Any], released: Path, cli: Any, tmp_path: Path) -> Callable[[str], str]:
    """Run a guide's commands beside a fleet with the device ``door-1``, which has an order."""
    server = new_server(released, time_scale=100.0)
    ticket = server.folder / "ticket.json"
    invited = ("devices", "invite", "door-1", "--profile", "linux-x86_64", "--output", ticket)
    cli(*invited, "--home", server.admin)
    folder = DataFolder(server.folder / "device")
    enrol(read_ticket(ticket), folder)
    cli("rollouts", "create", "digits", "1.0.0", "--home", server.admin)

    def run(page: str) -> str:
        blocks = re.findall(r"^```sh\n(.*?)^```$", (GUIDES / page).read_text(), re.MULTILINE | re.DOTALL)
        script = "set -eu\n" + "".join(blocks).replace("/var/lib/edgefleet", str(folder.root))
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "EDGEFLEET_HOME": str(server.admin)}
        ran = subprocess.run(
            ["bash"], input=script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    return run


def test_renewing_certificates_goes_as_the_guide_says(run_guide: Callable[[str], str]) -> None:
    out = run_guide("renew-certificates.md")
    assert re.search(r"^  certificate until 20\d\d-\d\d-\d\d", out, re.MULTILINE)
    assert "door-1 may renew a lapsed certificate until 20" in out
    assert out.endswith("door-1 was decommissioned\n")


def test_updating_from_a_stick_goes_as_the_guide_says(run_guide: Callable[[str], str]) -> None:
    out = run_guide("update-from-a-usb-stick.md")
    assert "update of door-1 written to door-1.update; it can be taken in for 90 days" in out
    assert re.search(r"^order \d: (digits 1.0.0|nothing new); it is taken up when the agent starts$", out, re.MULTILINE)
