# SPDX-License-Identifier: Apache-2.0
"""No room pulls in what it must not: each role is started in a fresh process, and sys.modules is looked at."""

import json
import subprocess
import sys

import pytest

HEAVY = {"tensorflow", "keras", "torch", "ai_edge_quantizer"}
WEB = {"fastapi", "starlette", "uvicorn", "sqlalchemy"}
NUMERIC = {"numpy", "ai_edge_litert", "PIL"}
TERMINAL = {"typer", "rich"}
UPDATE = {"tuf", "securesystemslib", "cryptography", "urllib3"}

ROLES = {
    "contracts": (
        "import edgefleet.contracts.bundle, edgefleet.contracts.messages, edgefleet.contracts.tuf_custom,"
        "edgefleet.contracts.policy, edgefleet.contracts.profile, edgefleet.contracts.enrolment",
        HEAVY | WEB | NUMERIC | TERMINAL | {"tuf", "cryptography", "paho", "urllib3", "httpx"},
    ),
    "front door": ("import edgefleet.cli.main", HEAVY | WEB | NUMERIC | TERMINAL | {"tuf", "cryptography"}),
    "agent supervisor": (
        "import device_agent.cli, device_agent.wiring, device_agent.field, device_agent.adapters.network.mqtt,"
        "device_agent.adapters.children.admission_process, device_agent.adapters.children.repositories_process",
        HEAVY | WEB | NUMERIC | TERMINAL | UPDATE | {"edgefleet.runtimes"},
    ),
    "server": ("import fleet_server.wiring", HEAVY | NUMERIC | {"edgefleet.runtimes"}),
    "converter": ("import converter.pipeline", {"tensorflow", "keras", "torch"} | WEB | {"tuf"}),
}


@pytest.mark.parametrize("role", ROLES)
def test_a_role_starts_without_the_packages_that_it_must_not_reach(role: str) -> None:
    imports, forbidden = ROLES[role]
    program = f"{imports}\nimport json, sys\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert loaded & forbidden == set()
