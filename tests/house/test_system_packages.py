# SPDX-License-Identifier: Apache-2.0
"""scripts/install-system-packages: installs what is missing and nothing else, or says what to install.

It runs with a PATH of stand-ins that write down how they were called; nothing of this machine is touched.
"""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LIST = """
# a comment
python3-venv  demo  -        virtual environments
there         demo  sh       is installed
away          demo  not-here-1  is missing
extra         test  not-here-2  is missing, and only tests want it
"""
#: Keeps services from starting while packages are installed; the script makes one only where there is none.
POLICY = Path("/usr/sbin/policy-rc.d")
#: Writes its name and arguments down, and swallows what it is fed.
RECORDER = '#!/bin/sh\necho "$(basename "$0") $*" >> "{log}"\n{then}\n'


class Machine:
    """A folder that stands in for a machine: a package list, the script, and a PATH of recorders."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "bin"
        self.log = folder / "log"
        (folder / "scripts").mkdir()
        self.bin.mkdir()
        self.log.touch()
        (folder / "system-packages.txt").write_text(LIST, encoding="utf-8")
        shutil.copy(ROOT / "scripts" / "install-system-packages", folder / "scripts")
        for real in ("sh", "dirname", "basename", "cat"):
            (self.bin / real).symlink_to(str(shutil.which(real)))
        self.program("python", "exit 0")

    def program(self, name: str, then: str) -> None:
        path = self.bin / name
        path.write_text(RECORDER.format(log=self.log, then=then), encoding="utf-8")
        path.chmod(0o755)

    def root(self) -> None:
        self.program("id", "echo 0")
        for name in ("chmod", "rm"):
            self.program(name, "")
        self.program("tee", "cat > /dev/null")

    def sudoer(self) -> None:
        self.program("id", "echo 1000")
        self.program("sudo", '[ "$2" != tee ] || cat > /dev/null')

    def install(self, wanted_for: str) -> tuple[int, str, list[str]]:
        """Run the script; return its status, what it said, and what it called (but for questions)."""
        done = subprocess.run(
            ["sh", str(self.folder / "scripts" / "install-system-packages"), wanted_for],
            env={"PATH": str(self.bin), "PYTHON": "python"}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.stdout == ""
        calls = [line for line in self.log.read_text().splitlines() if not line.startswith(("id", "python"))]
        return done.returncode, done.stderr, calls


def _under_a_policy(*calls: str) -> list[str]:
    if POLICY.exists():
        return list(calls)
    return [f"tee {POLICY}", f"chmod 755 {POLICY}", *calls, f"rm -f {POLICY}"]


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_with_everything_there_nothing_is_called_and_nothing_said(machine: Machine) -> None:
    machine.root()
    for name in ("not-here-1", "not-here-2"):
        machine.program(name, "")
    assert machine.install("test") == (0, "", [])


def test_without_the_right_to_install_it_says_what_to_install_and_goes_on(machine: Machine) -> None:
    machine.program("id", "echo 1000")
    assert machine.install("demo") == (
        0,
        "Not installed, and no right to install: run 'sudo apt-get install away' for all that 'demo' can use.\n",
        [],
    )


def test_sudo_that_asks_for_a_password_is_no_right_to_install(machine: Machine) -> None:
    machine.program("id", "echo 1000")
    machine.program("sudo", "exit 1")
    status, told, calls = machine.install("demo")
    assert (status, calls) == (0, ["sudo -n true"])
    assert "run 'sudo apt-get install away'" in told


def test_root_installs_what_is_missing_and_starts_no_services(machine: Machine) -> None:
    machine.root()
    machine.program("apt-get", "")
    assert machine.install("demo") == (
        0,
        "Installing Debian packages: away\n",
        _under_a_policy("apt-get update -q", "apt-get install -y -q --no-install-recommends away"),
    )


def test_sudo_without_a_password_installs_too(machine: Machine) -> None:
    machine.sudoer()
    _, _, calls = machine.install("test")
    assert "sudo -n apt-get install -y -q --no-install-recommends away extra" in calls


def test_a_python_without_venv_gets_its_package(machine: Machine) -> None:
    machine.root()
    machine.program("apt-get", "")
    machine.program("python", "exit 1")
    _, told, _ = machine.install("demo")
    assert told == "Installing Debian packages: python3-venv away\n"


def test_a_failed_installation_is_said_and_tidied_up(machine: Machine) -> None:
    machine.root()
    machine.program("apt-get", "exit 100")
    status, told, calls = machine.install("demo")
    assert status == 0
    assert told.endswith(
        "apt-get could not install away: install them by hand, or go on without (what needs them says so).\n"
    )
    assert calls == _under_a_policy("apt-get update -q")


def test_the_real_list_names_package_command_program_and_reason() -> None:
    lines = (ROOT / "system-packages.txt").read_text(encoding="utf-8").splitlines()
    rows = [line for line in lines if line and not line.startswith("#")]
    assert rows
    assert [row for row in rows if not re.fullmatch(r"[a-z0-9.+-]+ +(demo|test) +(-|[a-z0-9-]+) +\S.*", row)] == []
