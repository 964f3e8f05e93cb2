# SPDX-License-Identifier: Apache-2.0
"""A device runs one release of each product: a rollout changes its own product, and leaves the others as they are."""

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgefleet.contracts.canonical import sha256_file
from edgefleet.contracts.messages import RunningRelease

DEVICES = [f"d{number}" for number in range(4)]
#: Ends a test that fails.
LIMIT_S = 600.0


class Fleet:
    """Four devices that do at once what they are ordered; those of ``failing`` go back from a product instead."""

    def __init__(self, server: Any, link: Any, bundles: list[Path]) -> None:
        self.server = server
        self.link = link
        self.devices = {name: server.enrol(name) for name in DEVICES}
        self.sha256s = {bundle.name: sha256_file(bundle) for bundle in bundles}
        self.running: dict[str, dict[str, RunningRelease]] = {name: {} for name in DEVICES}
        self.failing = ""

    def turn(self) -> None:
        for name, device in self.devices.items():
            order, targets = device.order()
            wanted = {release.name: release for target in targets if (release := self._release(target.path))}
            before, self.running[name] = self.running[name], dict(wanted)
            for product, release in wanted.items():
                if product == self.failing and before.get(product) != release:
                    self.running[name] = before
                    self.link.event(name, "rolled-back", release, counter=order.counter)
            running = [self.running[name][product] for product in sorted(self.running[name])]
            self.link.state(
                name, running[0] if running else None, counter=order.counter, also_running=tuple(running[1:])
            )
            for release in running:
                self.link.window(name, release, right=19, wrong=1)

    def _release(self, path: str) -> RunningRelease:
        product, version, file = path.split("/")
        return RunningRelease(name=product, version=version, bundle_sha256=self.sha256s[file])

    def roll_out(self, cli: Any, product: str, version: str) -> str:
        made = cli("rollouts", "create", product, version, "--home", self.server.admin, "--json").document
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            state = str(self.server.call(f"rollouts/{made['id']}")["state"])
            if state in ("completed", "rolled-back"):
                return state
            self.turn()
        raise AssertionError(f"the rollout of {product} {version} did not end")

    def versions(self) -> set[tuple[tuple[str, str], ...]]:
        """Return the different sets that devices run."""
        return {
            tuple(sorted((release.name, release.version) for release in running.values()))
            for running in self.running.values()
        }


@pytest.fixture(name="fleet")
def _fleet(
    new_server: Any, new_broker: Any, telemetry_link: Any, released: Path, make_bundle: Any, policy_text: str
) -> Fleet:
    broker = new_broker("mosquitto")
    server = new_server(released, broker=broker.url, time_scale=120.0)
    people = [server.folder / name for name in ("ada", "bob")]
    for person in people:
        server.login(person, server.folder / f"{person.name}.token")
    server.delegate("sounds", *people)
    sounds = make_bundle(server.folder / "bundles", name="sounds", version="1.0.0")
    server.release(sounds, policy=policy_text, approvers=people)
    digits = [released / "bundles" / f"digits-{version}-linux-x86_64.bundle" for version in ("1.0.0", "2.0.0")]
    return Fleet(server, telemetry_link(broker.port), [sounds, *digits])


def test_a_rollout_leaves_the_devices_other_models_as_they_are_and_so_does_its_way_back(
    fleet: Fleet, cli: Any, make_bundle: Callable[..., Path]
) -> None:
    assert fleet.roll_out(cli, "digits", "1.0.0") == "completed"
    assert fleet.roll_out(cli, "sounds", "1.0.0") == "completed"
    assert fleet.versions() == {(("digits", "1.0.0"), ("sounds", "1.0.0"))}
    assert {device["ordered"] for device in fleet.server.call("devices")} == {"digits 1.0.0, sounds 1.0.0"}

    fleet.failing = "digits"
    assert fleet.roll_out(cli, "digits", "2.0.0") == "rolled-back"
    fleet.turn()
    assert fleet.versions() == {(("digits", "1.0.0"), ("sounds", "1.0.0"))}

    newcomer = fleet.devices["d9"] = fleet.server.enrol("d9")
    fleet.running["d9"] = {}
    cli("rollouts", "list", "--home", fleet.server.admin)
    deadline = time.monotonic() + LIMIT_S
    while not newcomer.order()[1] and time.monotonic() < deadline:
        fleet.turn()
    assert sorted(target.path.split("/")[0] for target in newcomer.order()[1]) == ["digits", "sounds"]


def test_an_order_from_before_sets_is_all_that_its_device_was_to_run(fleet: Fleet, cli: Any) -> None:
    assert fleet.roll_out(cli, "digits", "1.0.0") == "completed"
    fleet.server.stop()
    with closing(sqlite3.connect(fleet.server.data / "fleet.db")) as database, database:
        database.execute("UPDATE assignment SET members = NULL")
    fleet.server.start()
    assert {device["ordered"] for device in fleet.server.call("devices")} == {"digits 1.0.0"}
    assert fleet.roll_out(cli, "sounds", "1.0.0") == "completed"
    assert fleet.versions() == {(("digits", "1.0.0"), ("sounds", "1.0.0"))}
