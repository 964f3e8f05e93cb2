# SPDX-License-Identifier: Apache-2.0
"""The wheel brings every file, each extra brings what it says and nothing heavier, and programs say what is missing.

Editable installs hide packaging faults: here nothing of the checkout is on the path.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.wheel
Install = Callable[[str], Any]
HEAVY = {"tensorflow", "keras", "torch"}
CONVERTING = {"ai_edge_quantizer", "PIL"}
SERVING = {"fastapi", "starlette", "uvicorn", "sqlalchemy", "alembic", "jinja2"}
RUNNING = {"numpy", "ai_edge_litert"}
TRUSTING = {"tuf", "cryptography", "paho.mqtt"}
TERMINAL = {"typer", "rich"}
ALL = HEAVY | CONVERTING | SERVING | RUNNING | TRUSTING | TERMINAL | {"amqtt"}
BRINGS = {
    "": set(),
    "converter": CONVERTING | RUNNING | TERMINAL | {"cryptography"},  # which signs provenance
    "device": RUNNING | TRUSTING,
    "server": SERVING | TRUSTING | TERMINAL,
    "emulation": RUNNING | TRUSTING | TERMINAL,
    "demo": ALL - HEAVY,
}
ROOMS = {
    "": ["edgefleet.contracts"],
    "converter": ["edgefleet", "firmware_profiles", "converter"],
    "device": ["edgefleet.contracts", "edgefleet.runtimes", "device_agent"],
    "server": ["edgefleet.contracts", "edgefleet.cli", "firmware_profiles", "fleet_server"],
    "emulation": ["edgefleet.contracts", "edgefleet.runtimes", "device_agent"],
    "demo": ["edgefleet", "firmware_profiles", "converter", "fleet_server", "device_agent", "fleet_emulation"],
}
#: Which commands each extra must bring to life.
WORKS = {
    "converter": [["edgefleet", verb, "--help"] for verb in ("profiles", "convert", "inspect", "verify", "run")],
    "device": [["edgefleet-agent", "--help"], ["edgefleet-agent", "run", "--help"]],
    "server": [
        ["edgefleet", verb, "--help"] for verb in ("keys", "server", "devices", "releases", "rollouts", "audit")
    ],
    "emulation": [["edgefleet-agent", "--help"]],
    "demo": [["edgefleet", "demo", "--help"], ["edgefleet-agent", "--help"]],
}
#: Packages that another extra brings: the modules that need them are left out with the reason.
_FOREIGN = {"tensorflow", "tf_keras", "keras"}
_IMPORT_ALL = """
import importlib, pkgutil
broken = {{}}
for room in {rooms!r}:
    package = importlib.import_module(room)
    for module in pkgutil.walk_packages(package.__path__, room + "."):
        if module.name.rpartition(".")[2] in ("__main__", "env") or module.name.rpartition(".")[2][0].isdigit():
            continue  # programs, and scripts that Alembic runs
        try:
            importlib.import_module(module.name)
        except ModuleNotFoundError as error:
            if error.name not in {foreign!r}:
                broken[module.name] = str(error)
result = broken
"""
_PRESENT = """
import importlib.util
def present(name):
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
result = [name for name in {names!r} if present(name)]
"""


@pytest.mark.parametrize("extra", BRINGS)
def test_an_extra_brings_its_packages_and_none_of_the_others(extra: str, installed: Install) -> None:
    present = installed(extra).evaluate(_PRESENT.format(names=sorted(ALL)))
    assert set(present) == BRINGS[extra]


@pytest.mark.parametrize("extra", BRINGS)
def test_an_extras_packages_agree_with_each_other(extra: str, installed: Install) -> None:
    python = installed(extra).folder / "bin" / "python"
    command = [sys.executable, "-m", "pip", "--python", str(python), "check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "No broken requirements found.\n")


@pytest.mark.parametrize("extra", ROOMS)
def test_every_module_of_an_extras_rooms_imports(extra: str, installed: Install) -> None:
    code = _IMPORT_ALL.format(rooms=ROOMS[extra], foreign=sorted(_FOREIGN))
    assert installed(extra).evaluate(code) == {}


@pytest.mark.parametrize("extra", BRINGS)
def test_help_and_version_work_with_any_extra(extra: str, installed: Install) -> None:
    for option in ("--help", "--version"):
        done = installed(extra).run("edgefleet", option)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("extra", WORKS)
def test_an_extras_commands_work(extra: str, installed: Install) -> None:
    for program, *arguments in WORKS[extra]:
        done = installed(extra).run(program, *arguments)
        assert (done.returncode, done.stderr) == (0, ""), (program, arguments)
        assert done.stdout


@pytest.mark.parametrize("extra", ["", "device"])
def test_a_verb_of_another_extra_names_it_in_one_sentence(extra: str, installed: Install) -> None:
    for verb, wanted in (("convert", "converter"), ("server", "server"), ("demo", "demo")):
        done = installed(extra).run("edgefleet", verb, "--help")
        assert (done.returncode, done.stdout) == (1, "")
        assert done.stderr == (
            f"error: 'edgefleet {verb}' needs the Python package 'typer', which is not installed\n"
            f"hint: run: pip install 'edgefleet[{wanted}]'\n"
        )


def test_a_server_names_the_extra_that_converts(installed: Install) -> None:
    done = installed("server").run("edgefleet", "run", "x.bundle", "x.npy", "--output", "y.npy")
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr


def test_the_agent_without_its_extra_is_one_sentence(installed: Install) -> None:
    done = installed("").run("edgefleet-agent", "enrol", "--ticket", "ticket.json", "--data", "agent")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "error: 'edgefleet-agent' needs the extra 'device', which is not installed\n"
        "hint: run: pip install 'edgefleet[device]'\n"
    )


def test_the_boards_are_installed(installed: Install) -> None:
    done = installed("converter").run("edgefleet", "profiles", "list", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    rows = document if isinstance(document, list) else document["profiles"]
    assert {"linux-x86_64", "mps2-an386", "raspberry-pi-4"} <= {row["id"] for row in rows}


def test_the_licence_and_the_type_marker_are_shipped(wheel_names: frozenset[str]) -> None:
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in wheel_names)
    for room in ("edgefleet", "firmware_profiles", "converter", "fleet_server", "device_agent", "fleet_emulation"):
        assert f"{room}/py.typed" in wheel_names


def test_every_tracked_file_of_a_room_is_shipped(wheel_names: frozenset[str]) -> None:
    tracked = _tracked(*ROOMS["demo"])
    assert tracked
    assert tracked - wheel_names == set()


def test_the_example_is_shipped_inside_the_emulation(wheel_names: frozenset[str]) -> None:
    shipped = {name.replace("examples/", "fleet_emulation/", 1) for name in _tracked("examples/digits")}
    assert shipped
    assert shipped - wheel_names == set()


def test_nothing_but_the_rooms_is_shipped(wheel_names: frozenset[str]) -> None:
    tops = {name.partition("/")[0] for name in wheel_names}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(ROOMS["demo"])


def _tracked(*folders: str) -> set[str]:
    listed = subprocess.run(["git", "ls-files", "--", *folders], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
