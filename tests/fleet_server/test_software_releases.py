# SPDX-License-Identifier: Apache-2.0
"""Releases of the agents' own software: approved as models are, ordered by machine, and only where it can be read."""

import importlib.util
import json
import platform
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from device_agent.adapters.identity.check_in import check_in
from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.identity.enrolment import enrol, read_ticket
from device_agent.adapters.verification.importing import import_update
from device_agent.launcher import FOLDER_VARIABLE
from device_agent.repositories.in_process import InProcessRepositories
from edgefleet.contracts.canonical import sha256_file
from edgefleet.contracts.enrolment import EnrolmentTicket, HardwareFacts
from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.messages import RunningRelease
from edgefleet.contracts.wheel_set import is_wheel_set, open_wheel_set

ROOT = Path(__file__).resolve().parents[2]
SOFTWARE = "edgefleet-agent"
LIMIT_S = 600.0
"""How long a rollout may take on a machine that does much else."""
POLICY = """
format_version = 1
[rollout]
holdout_percent = 0.0
waves = [{ percent = 50.0, minimum_s = 60.0 }, { percent = 100.0, minimum_s = 60.0 }]
[rollout.gate]
failed_devices = 0.0
limit_s = 600000.0
"""
BOARD = HardwareFacts(
    architecture="x86_64",
    kernel="6",
    cpu_count=2,
    memory_bytes=1 << 33,
    python="3.11.2",
    runtime="ai-edge-litert 2.3.0",
    order_kinds=("software",),
)


def wheel_set(folder: Path, version: str, machine: str = "x86_64", name: str = SOFTWARE) -> Path:
    """A wheel set with one wheel of one file."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"agent-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("device_agent/__init__.py", f"# {version} for {machine}")
    spec = importlib.util.spec_from_file_location("build_wheel_set", ROOT / "scripts" / "build_wheel_set.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    out = folder / f"{name}-{version}-{machine}.wheels"
    script.write_wheel_set([wheel], out, name=name, version=version, machine=machine, python="3.11")
    return out


class Fleet:
    """Devices with boards of their own, that run the software that they are ordered; ``failing`` take it back."""

    def __init__(self, server: Any, link: Any, cli: Any) -> None:
        self.server = server
        self.link = link
        self.cli = cli
        self.devices: dict[str, Any] = {}
        self.running: dict[str, RunningRelease | None] = {}
        self.failing: set[str] = set()
        self.made: dict[str, RunningRelease] = {}

    def enrol(self, kind: Any, name: str, **facts: Any) -> None:
        ticket = self.server.folder / f"{name}.ticket.json"
        words = ("devices", "invite", name, "--profile", "linux-x86_64", "--output", ticket)
        self.cli(*words, "--home", self.server.admin)
        device = kind(msgspec.json.decode(ticket.read_bytes(), type=EnrolmentTicket), self.server.folder / "dev" / name)
        assert device.enrol(device.request(facts=msgspec.structs.replace(BOARD, **facts))).status == 200
        self.devices[name], self.running[name] = device, None

    def release(self, version: str, *machines: str) -> None:
        files = [wheel_set(self.server.folder / "sets", version, machine) for machine in machines]
        policy = self.server.folder / "software.toml"
        policy.write_text(POLICY)
        words = ("releases", "publish", "--kind", "software", *files, "--policy", policy)
        self.cli(*words, "--home", self.server.admin)
        for name in ("ada", "bob"):
            approve = ("releases", "approve", SOFTWARE, version, "--key", name, "--yes")
            self.cli(*approve, "--home", self.server.folder / name)
        for file in files:
            facts = open_wheel_set(file).facts
            path = f"{SOFTWARE}-{version}-{facts.machine}.python-3.11.wheels"
            self.made[path] = RunningRelease(name=SOFTWARE, version=version, bundle_sha256=sha256_file(file))

    def turn(self) -> None:
        for name, device in self.devices.items():
            order, targets = device.order()
            ordered = [self.made[target.path.rpartition("/")[2]] for target in targets if SOFTWARE in target.path]
            for release in ordered:
                if name in self.failing and release != self.running[name]:
                    self.link.event(name, "software-rolled-back", release, counter=order.counter)
                else:
                    self.running[name] = release
            self.link.state(name, None, counter=order.counter, software=self.running[name])

    def roll_out(self, version: str) -> dict[str, Any]:
        made = self.cli("rollouts", "create", SOFTWARE, version, "--home", self.server.admin, "--json").document
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            status: dict[str, Any] = self.server.call(f"rollouts/{made['id']}")
            if status["state"] in ("completed", "rolled-back"):
                return status
            self.turn()
        raise AssertionError(f"the rollout of software {version} did not end: {status}")

    def versions(self) -> dict[str, str]:
        return {name: release.version if release else "" for name, release in self.running.items()}


@pytest.fixture(name="fleet")
def _fleet(new_server: Any, new_broker: Any, telemetry_link: Any, released: Path, cli: Any) -> Fleet:
    broker = new_broker("mosquitto")
    server = new_server(released, broker=broker.url, time_scale=120.0)
    people = [server.folder / name for name in ("ada", "bob")]
    for person in people:
        server.login(person, server.folder / f"{person.name}.token")
    server.delegate(SOFTWARE, *people)
    kind = type(server.enrol("template"))
    cli("devices", "decommission", "template", "--yes", "--home", server.admin)
    fleet = Fleet(server, telemetry_link(broker.port), cli)
    fleet.enrol(kind, "pc-1")
    fleet.enrol(kind, "pc-2")
    fleet.enrol(kind, "pi", architecture="aarch64")
    fleet.enrol(kind, "older", order_kinds=())
    fleet.enrol(kind, "python", python="3.13.1")
    return fleet


def test_software_goes_through_the_fleet_in_waves_each_machine_its_own_and_no_agent_that_cannot_read_it(
    fleet: Fleet,
) -> None:
    fleet.release("1.0.0", "x86_64", "aarch64")
    status = fleet.roll_out("1.0.0")
    assert (status["state"], status["covered"], status["not_covered"]) == ("completed", 3, [])
    assert status["unfit"] == {
        "older": ["order_kinds lack software: its agent takes none by order"],
        "python": ["python is 3.13, needed 3.11"],
    }
    assert fleet.versions() == {"pc-1": "1.0.0", "pc-2": "1.0.0", "pi": "1.0.0", "older": "", "python": ""}
    assert fleet.running["pi"] != fleet.running["pc-1"]
    for name in ("older", "python"):
        assert fleet.devices[name].order()[1] == []
    ordered = {device["name"]: device["ordered"] for device in fleet.server.call("devices") if device["ordered"]}
    assert ordered == dict.fromkeys(("pc-1", "pc-2", "pi"), "edgefleet-agent 1.0.0")
    shown = fleet.cli("devices", "show", "pi", "--home", fleet.server.admin).out
    assert "  software edgefleet-agent 1.0.0\n" in shown
    (target,) = fleet.devices["pi"].order()[1]
    assert (
        fleet.devices["pi"].fetch(target.path)
        == (fleet.server.folder / "sets" / _file("1.0.0", "aarch64")).read_bytes()
    )


def _file(version: str, machine: str) -> str:
    return f"{SOFTWARE}-{version}-{machine}.wheels"


def test_software_that_devices_take_back_ends_its_rollout_and_all_go_back_to_the_one_before(fleet: Fleet) -> None:
    fleet.release("1.0.0", "x86_64")
    assert fleet.roll_out("1.0.0")["state"] == "completed"
    fleet.release("2.0.0", "x86_64")
    fleet.failing = {"pc-1", "pc-2"}
    status = fleet.roll_out("2.0.0")
    assert (status["state"], status["cause"]) == ("rolled-back", "failed-devices")
    fleet.turn()
    assert fleet.versions() == {"pc-1": "1.0.0", "pc-2": "1.0.0", "pi": "", "older": "", "python": ""}
    assert [target.path for target in fleet.devices["pc-1"].order()[1]] == [
        f"{SOFTWARE}/1.0.0/{SOFTWARE}-1.0.0-x86_64.python-3.11.wheels"
    ]


def test_a_device_whose_agent_cannot_read_such_orders_any_more_is_ordered_none(fleet: Fleet) -> None:
    fleet.release("1.0.0", "x86_64")
    fleet.roll_out("1.0.0")
    device = fleet.devices["pc-1"]
    before, (target,) = device.order()
    facts = msgspec.to_builtins(msgspec.structs.replace(BOARD, order_kinds=(), agent_version="0.1.0"))
    said = {"attempt": "1" * 32, "facts": facts}
    answer = device.pool().request("POST", f"{device.ticket.server_url}/v1/check-in", body=json.dumps(said).encode())
    assert answer.status == 200
    after, targets = device.order()
    assert (after.counter, targets, target.path.partition("/")[0]) == (before.counter + 1, [], SOFTWARE)


def test_models_are_rolled_out_beside_software_and_leave_it_as_it_is(
    fleet: Fleet, cli: Any, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    fleet.release("1.0.0", "x86_64")
    fleet.roll_out("1.0.0")
    at_once = POLICY.replace("{ percent = 50.0, minimum_s = 60.0 }, ", "")
    people = [fleet.server.folder / name for name in ("ada", "bob")]
    fleet.server.release(make_bundle(tmp_path, version="3.0.0"), policy=at_once, approvers=people)
    cli("rollouts", "create", "digits", "3.0.0", "--home", fleet.server.admin)
    digits = "digits/3.0.0/digits-3.0.0-linux-x86_64.bundle"
    software = f"{SOFTWARE}/1.0.0/{SOFTWARE}-1.0.0-x86_64.python-3.11.wheels"
    assert {name: sorted(target.path for target in device.order()[1]) for name, device in fleet.devices.items()} == {
        "pc-1": [digits, software],
        "pc-2": [digits, software],
        "pi": [digits],
        "older": [digits],
        "python": [digits],
    }


def test_an_update_file_brings_software_to_a_device_that_said_that_it_takes_any(
    fleet: Fleet, cli: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, ticket = DataFolder(fleet.server.folder / "boards" / "s1"), fleet.server.folder / "s1.ticket.json"
    invited = ("devices", "invite", "s1", "--profile", "linux-x86_64", "--output", ticket)
    cli(*invited, "--home", fleet.server.admin)
    enrol(read_ticket(ticket), folder)
    fleet.release("1.0.0", platform.machine())
    unfit = cli("rollouts", "create", SOFTWARE, "1.0.0", "--home", fleet.server.admin, "--json").document["unfit"]
    assert unfit["s1"] == ["order_kinds lack software: its agent takes none by order"]
    check_in(folder, folder.read_identity())  # by an agent that no launcher started, and so nobody could take back
    assert (
        cli("devices", "show", "s1", "--home", fleet.server.admin, "--json").document["facts"].get("order_kinds", [])
        == []
    )
    monkeypatch.setenv(FOLDER_VARIABLE, str(folder.root / "software"))
    check_in(folder, folder.read_identity())
    output = fleet.server.folder / "s1.update"

    def ordered() -> bool:
        fleet.turn()
        return bool(next(device for device in fleet.server.call("devices") if device["name"] == "s1")["ordered"])

    deadline = time.monotonic() + LIMIT_S
    while not ordered():
        assert time.monotonic() < deadline, "the device was never ordered the software"
    cli("releases", "export", "--device", "s1", "--output", output, "--home", fleet.server.admin)
    order = import_update(folder, output, reserve_bytes=0)
    assert order.software is not None
    assert (order.software.release.name, order.software.release.version, order.wanted) == (SOFTWARE, "1.0.0", ())
    fleet.server.stop()
    brought = InProcessRepositories(folder, reserve_bytes=0)
    fetched = brought.fetch(brought.check(0).software.target, lambda: False)  # type: ignore[union-attr]
    assert open_wheel_set(fetched).facts.version == "1.0.0"


def test_what_is_no_release_of_software_is_refused_by_name(
    fleet: Fleet, cli: Any, make_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    policy = tmp_path / "policy.toml"
    policy.write_text(POLICY)
    good, other = wheel_set(tmp_path / "a", "1.0.0"), wheel_set(tmp_path / "b", "1.1.0", "aarch64")
    named, bundle = wheel_set(tmp_path / "c", "1.0.0", name="digits"), make_bundle(tmp_path / "d")
    impostor = make_bundle(tmp_path / "e", name=SOFTWARE)
    again = wheel_set(tmp_path / "f", "1.0.0")
    kind = ("--kind", "software")

    def refusal(*words: object) -> str:
        told = cli("releases", "publish", *words, "--policy", policy, "--home", fleet.server.admin, expect=3).err
        return str(told).partition("\n")[0].removeprefix("error: ")

    assert refusal(*kind, named) == f"the wheel set is named 'digits', expected '{SOFTWARE}'"
    assert refusal(*kind, good, other) == "the wheel sets are of several versions: 1.0.0, 1.1.0"
    assert refusal(*kind, good, again) == "two wheel sets are for 'x86_64.python-3.11'"
    assert refusal(impostor) == f"a model cannot be named '{SOFTWARE}'"
    assert refusal(*kind, bundle) == f"'{bundle.name}' is no wheel set: its first member is not set.json"
    assert refusal(good) == f"'{good.name}' is a wheel set, expected a bundle"
    policy.write_text(f"{POLICY}minimum_requests = 20\n")
    assert refusal(*kind, good) == (
        "the policy's gate waits for minimum_requests = 20, and software answers no requests"
    )
    policy.write_text(POLICY)
    cli("releases", "publish", *kind, good, "--policy", policy, "--home", fleet.server.admin)
    unapproved = cli("rollouts", "create", SOFTWARE, "1.0.0", "--home", fleet.server.admin, expect=3).err
    assert unapproved.startswith(f"error: release {SOFTWARE} 1.0.0 is draft, expected approved\n")


def test_a_wheel_set_whose_wheel_is_another_is_refused_where_it_is_read(tmp_path: Path) -> None:
    good = wheel_set(tmp_path, "1.0.0")
    assert is_wheel_set(good)
    spoiled = tmp_path / "spoiled.wheels"
    spoiled.write_bytes(good.read_bytes().replace(b"# 1.0.0 for", b"# 6.6.6 for"))
    with pytest.raises(EdgeFleetError) as raised:
        open_wheel_set(spoiled)
    assert raised.value.message == "the wheel 'agent-1.0.0-py3-none-any.whl' has another SHA-256 than the set says"
