# SPDX-License-Identifier: Apache-2.0
"""Real agents take software of their own by a rollout: one under its launcher, one that nobody would start again."""

import importlib.util
import os
import platform
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from edgefleet.contracts.canonical import sha256_file
from edgefleet.contracts.software import SOFTWARE_NAME
from fleet_emulation.command import edgefleet, require
from fleet_emulation.rehearsal import ENDED, wait_until
from fleet_emulation.testbed import APPROVERS, Testbed, module

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 120.0
PYTHON = f"{sys.version_info[0]}.{sys.version_info[1]}"
POLICY = """
format_version = 1
[rollout]
holdout_percent = 0.0
waves = [{ percent = 100.0, minimum_s = 1.0 }]
[rollout.gate]
failed_devices = 0.0
limit_s = 36000.0
"""
PARTS = ("device_agent/**/*.py", "edgefleet/*.py", "edgefleet/contracts/**/*.py", "edgefleet/runtimes/**/*.py")
FIELD = "device_agent/field.py"
CRASH = "raise SystemExit('this software ends as soon as it runs')\n"


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def wheel_set(folder: Path, version: str, changed: Mapping[str, str]) -> Path:
    """The agent as it is here, under another version, with some of its files changed."""
    files = {str(path.relative_to(ROOT)): path.read_text() for pattern in PARTS for path in ROOT.glob(pattern)}
    own = {"edgefleet/version.py": f'__version__ = "{version}"\n', f"edgefleet-{version}.dist-info/METADATA": ""}
    folder.mkdir(exist_ok=True)
    wheel = folder / f"edgefleet-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in {**files, **own, **changed}.items():
            archive.writestr(path, text)
    out = folder / f"{version}.wheels"
    facts = {"name": SOFTWARE_NAME, "version": version, "machine": platform.machine(), "python": PYTHON}
    script("build_wheel_set").write_wheel_set([wheel], out, **facts)
    return out


class Service:
    """Starts the launcher again whenever the agent ends, as the service manager does."""

    def __init__(self, folder: Path, log: Path) -> None:
        arguments = ["run", "--data", str(folder), "--config", str(folder / "agent.toml"), "--time-scale", "60"]
        self._command = [sys.executable, str(ROOT / "device_agent" / "launcher.py"), *arguments]
        self._log = log
        self._turn = threading.Lock()
        self._stopped = False
        self.starts = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while self._start():
            assert self._process is not None
            self._process.wait()

    def _start(self) -> bool:
        environment = {**os.environ, "PYTHONSAFEPATH": "1"}
        with self._turn, self._log.open("ab") as log:
            if self._stopped:
                return False
            self._process = subprocess.Popen(self._command, stdout=log, stderr=log, env=environment)
            self.starts += 1
        return True

    def stop(self) -> None:
        with self._turn:
            self._stopped = True
            if self._process is not None:
                self._process.terminate()
        self._thread.join()


class Site:
    """A server whose approvers release software, and a device of each kind."""

    def __init__(self, bed: Testbed) -> None:
        self.bed = bed
        self.sets = bed.folder / "sets"

    def release(self, version: str, **changed: str) -> str:
        """Publish and approve software, with these files changed; return its SHA-256."""
        file = wheel_set(self.sets, version, changed)
        policy = self.bed.folder / "policy.toml"
        policy.write_text(POLICY)
        words = ("releases", "publish", "--kind", "software", file, "--policy", policy)
        require(edgefleet(*map(str, words), home=self.bed.admin))
        for person in APPROVERS:
            home = self.bed.home(person)
            key = ("--key", person, "--passphrase-file", str(home / "passphrase"), "--yes")
            require(edgefleet("releases", "approve", SOFTWARE_NAME, version, *key, home=home))
        return sha256_file(file)

    def roll_out(self, version: str) -> str:
        started = self.bed.api.post("rollouts", {"name": SOFTWARE_NAME, "version": version})

        def state() -> str | None:
            found = str(self.bed.api.get(f"rollouts/{started['id']}")["state"])
            return found if found in ENDED else None

        return wait_until(state, f"the rollout of software {version} to end", limit_s=LIMIT_S)

    def device(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = self.bed.api.get(f"devices/{name}")
        return found

    def told(self, name: str) -> list[tuple[str, str]]:
        """What a device said of software, the oldest first."""
        events = reversed(self.bed.api.get("events", device=name, limit=200))
        return [(event["kind"], event["cause"]) for event in events if event["kind"].startswith("software-")]

    def until_told(self, name: str, expected: list[tuple[str, str]]) -> None:
        """Wait for what a device said to come in: its state may be here before its messages."""
        wait_until(lambda: len(self.told(name)) >= len(expected), f"{expected} of {name}", limit_s=LIMIT_S)
        assert self.told(name) == expected


@pytest.fixture(name="site")
def _site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("own")  # a socket's path is short
    with Testbed(folder / "fleet", folder, time_scale=60, poll_s=0.5) as bed:
        bed.set_up_server()
        bed.delegate(SOFTWARE_NAME)
        yield Site(bed)


@pytest.fixture(name="service")
def _service(site: Site) -> Iterator[Service]:
    """A device whose agent its launcher starts, beside one that was started by hand."""
    bed = site.bed
    by_hand, launched = bed.invite(["by-hand", "launched"])
    bed.start_agent("by-hand", by_hand)
    folder = bed.folder / "devices" / "launched"
    enrol = module("device_agent", "enrol", "--ticket", launched, "--data", folder)
    subprocess.run(enrol, check=True, capture_output=True)
    (folder / "agent.toml").write_text((bed.folder / "devices" / "by-hand" / "agent.toml").read_text())
    service = Service(folder, bed.logs / "launched.log")
    yield service
    service.stop()


@pytest.mark.slow
def test_software_is_tried_committed_and_taken_back_by_order(site: Site, service: Service) -> None:
    good = site.release("2.0.0")
    bad = site.release("3.0.0", **{FIELD: _crashing()})

    def ready() -> bool:
        by_hand, launched = (site.device(name) for name in ("by-hand", "launched"))
        return bool(launched["facts"].get("order_kinds") == ["software"] and by_hand["facts_at"])

    wait_until(ready, "both devices to say what they take", limit_s=LIMIT_S)
    assert site.roll_out("2.0.0") == "completed"
    (rollout,) = site.bed.api.get("rollouts")
    assert rollout["unfit"] == {"by-hand": ["order_kinds lack software: its agent takes none by order"]}
    state = site.device("launched")["state"]
    assert state["software"] == {"name": SOFTWARE_NAME, "version": "2.0.0", "bundle_sha256": good}
    assert state["agent_version"] == "2.0.0"
    first = [("software-found", "ordered"), ("software-committed", "healthy")]
    site.until_told("launched", first)
    assert (site.device("by-hand")["ordered"], site.told("by-hand")) == (None, [])

    starts = service.starts
    assert site.roll_out("3.0.0") == "rolled-back"
    state = site.device("launched")["state"]
    assert (state["software"]["version"], state["agent_version"]) == ("2.0.0", "2.0.0")
    assert state["quarantined"] == [bad]
    site.until_told("launched", [*first, ("software-found", "ordered"), ("software-rolled-back", "trial-failed")])
    assert service.starts == starts + 4  # three attempts, and the one before again

    site.bed.api.post("devices/launched/lift", {"name": SOFTWARE_NAME, "version": "3.0.0"})

    def seen() -> bool:
        return not site.device("launched")["state"].get("quarantined")

    wait_until(seen, "the device to have seen the order that lifts", limit_s=LIMIT_S)
    assert site.roll_out("3.0.0") == "rolled-back"
    assert site.device("launched")["state"]["quarantined"] == [bad]
    assert service.starts == starts + 8


def _crashing() -> str:
    """The module, whose function that runs the agent ends at once: it imports, and cannot be used."""
    text = (ROOT / FIELD).read_text()
    first = "    folder = DataFolder(options.data.resolve())\n"
    assert text.count(first) == 1
    return text.replace(first, f"    {CRASH}{first}")
