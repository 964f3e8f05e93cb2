# SPDX-License-Identifier: Apache-2.0
"""Rollouts on a running server: waves, a gate that reads MQTT evidence, a halt that sends devices back, kill -9."""

import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgefleet.contracts.canonical import sha256_file
from edgefleet.contracts.messages import RunningRelease

DEVICES = [f"d{number}" for number in range(8)]


class FakeFleet:
    """Eight devices that do at once what they are ordered, and answer requests with the accuracy of their release."""

    def __init__(self, server: Any, link: Any, bundles: dict[str, Path], correct: dict[str, int]) -> None:
        self.server = server
        self.link = link
        self.releases = {
            f"digits/{version}/{path.name}": RunningRelease(
                name="digits", version=version, bundle_sha256=sha256_file(path)
            )
            for version, path in bundles.items()
        }
        self.correct = correct
        self.devices = {name: server.enrol(name) for name in DEVICES}
        self.running: dict[str, RunningRelease | None] = dict.fromkeys(DEVICES)
        self.counters = dict.fromkeys(DEVICES, 0)
        self.orders: set[tuple[str, int, str]] = set()
        self.refusing: set[str] = set()

    def turn(self) -> None:
        """Let every device poll once, run what it is ordered, and report twenty answers."""
        for name, device in self.devices.items():
            order, targets = device.order()
            path = targets[0].path if targets else ""
            self.orders.add((name, order.counter, path))
            assert order.counter >= self.counters[name]
            self.counters[name] = order.counter
            if path and name in self.refusing:
                self.link.event(name, "admission-refused", self.releases[path], counter=order.counter)
            elif path:
                self.running[name] = self.releases[path]
            self.link.state(name, self.running[name], counter=order.counter)
            running = self.running[name]
            if running is not None:
                right = self.correct[running.version]
                self.link.window(name, running, right=right, wrong=20 - right)

    def turn_until(self, condition: Callable[[], Any], limit_s: float = 600.0) -> None:
        deadline = time.monotonic() + limit_s
        while time.monotonic() < deadline:
            if condition():
                return
            self.turn()
        raise AssertionError(f"the fleet took its turns for {limit_s:.0f} s, and the condition did not come true")

    def versions(self) -> list[str]:
        return [running.version if running else "none" for running in self.running.values()]


@pytest.fixture(name="fleet")
def _fleet(new_server: Any, new_broker: Any, telemetry_link: Any, released: Path) -> FakeFleet:
    broker = new_broker("mosquitto")
    server = new_server(released, broker=broker.url, time_scale=120.0)
    bundles = {
        version: released / "bundles" / f"digits-{version}-linux-x86_64.bundle" for version in ("1.0.0", "2.0.0")
    }
    return FakeFleet(server, telemetry_link(broker.port), bundles, {"1.0.0": 19, "2.0.0": 12})


def rollout(fleet: FakeFleet, cli: Any, version: str) -> str:
    made = cli("rollouts", "create", "digits", version, "--home", fleet.server.admin, "--json").document
    return str(made["id"])


def state(fleet: FakeFleet, identity: str) -> str:
    return str(fleet.server.call(f"rollouts/{identity}")["state"])


def test_a_good_release_reaches_all_and_a_bad_one_is_halted_in_its_first_wave(fleet: FakeFleet, cli: Any) -> None:
    fleet.server.enrol("pi", "raspberry-pi-4")
    first = rollout(fleet, cli, "1.0.0")
    status = fleet.server.call(f"rollouts/{first}")
    assert (status["assigned"], status["held_out"], status["covered"]) == (2, 2, 8)
    assert status["not_covered"] == ["pi"]
    fleet.turn_until(lambda: state(fleet, first) == "completed")
    assert fleet.versions() == ["1.0.0"] * 8
    assert cli("rollouts", "status", first, "--wait", "--home", fleet.server.admin).status == 0

    second = rollout(fleet, cli, "2.0.0")
    fleet.turn_until(lambda: state(fleet, second) == "rolled-back")
    assert fleet.versions() == ["1.0.0"] * 8
    tried = {name for name, _, path in fleet.orders if "/2.0.0/" in path}
    assert len(tried) == 2
    ended = cli("rollouts", "status", second, "--wait", "--home", fleet.server.admin, "--json", expect=5).document
    assert (ended["state"], ended["cause"], ended["wave"]) == ("rolled-back", "accuracy-drop", 1)
    finding = next(f for f in ended["verdict"]["findings"] if f["rule"] == "accuracy-drop")
    assert finding["outcome"] == "broken"
    assert finding["observed"] == pytest.approx(19 / 20 - 12 / 20)
    assert "(allowed -10.0%)" in finding["text"]
    cli("rollouts", "undo", first, "--home", fleet.server.admin)
    fleet.turn_until(lambda: state(fleet, first) == "rolled-back")
    assert {device.order()[1] == [] for device in fleet.devices.values()} == {True}
    actions = [entry["action"] for entry in fleet.server.call("audit")]
    assert "rollout-step" in actions
    assert cli("audit", "--home", fleet.server.admin).status == 0


def test_devices_that_refuse_a_release_halt_it_and_abort_sends_devices_back(fleet: FakeFleet, cli: Any) -> None:
    fleet.refusing = set(DEVICES)
    first = rollout(fleet, cli, "1.0.0")
    fleet.turn_until(lambda: state(fleet, first) == "rolled-back")
    status = fleet.server.call(f"rollouts/{first}")
    assert (status["cause"], status["assigned"]) == ("failed-devices", 2)
    assert status["failed"] >= 1  # one of two is enough, and the other may not have had its turn

    fleet.refusing = set()
    second = rollout(fleet, cli, "2.0.0")
    refused = cli("rollouts", "create", "digits", "1.0.0", "--home", fleet.server.admin, expect=1)
    assert f"rollout '{second}' is running: one rollout goes at a time" in refused.err
    cli("rollouts", "pause", second, "--home", fleet.server.admin)
    assert state(fleet, second) == "paused"
    cli("rollouts", "abort", second, "--home", fleet.server.admin)
    fleet.turn_until(lambda: state(fleet, second) == "rolled-back")
    assert fleet.server.call(f"rollouts/{second}")["cause"] == "aborted-by-order"


def test_a_device_that_joins_a_finished_rollout_gets_what_the_fleet_runs(
    fleet: FakeFleet, cli: Any, wait_for: Any
) -> None:
    first = rollout(fleet, cli, "1.0.0")
    fleet.turn_until(lambda: state(fleet, first) == "completed")
    late = fleet.server.enrol("late")
    order, targets = wait_for(lambda: (found := late.order())[1] and found, "an order for the newcomer")
    assert (order.counter, [target.path for target in targets]) == (
        1,
        ["digits/1.0.0/digits-1.0.0-linux-x86_64.bundle"],
    )
    lifted_on = fleet.server.enrol("later")
    cli("devices", "lift", "later", "digits", "2.0.0", "--home", fleet.server.admin)  # an order, and no release yet
    _, targets = wait_for(lambda: (found := lifted_on.order())[1] and found, "an order for the other newcomer")
    assert [target.path for target in targets] == ["digits/1.0.0/digits-1.0.0-linux-x86_64.bundle"]


@pytest.mark.slow
def test_killing_the_server_at_random_moments_loses_no_rollout_and_gives_no_device_two_orders(
    fleet: FakeFleet, cli: Any
) -> None:
    seed = random.randrange(1 << 32)
    print("seed", seed)  # noqa: T201 - shown when the test fails
    chance = random.Random(seed)
    identity = rollout(fleet, cli, "1.0.0")
    for _ in range(10):
        killer = threading.Timer(chance.uniform(0.0, 0.4), fleet.server.process.send_signal, [signal.SIGKILL])
        killer.start()
        try:
            fleet.turn()
        except Exception as error:  # noqa: BLE001 - the server died under this turn, as it should
            print(type(error))  # noqa: T201
        killer.join()
        fleet.server.process.wait(timeout=120)
        fleet.server.process.stdout.close()
        fleet.server.start()
    fleet.turn_until(lambda: state(fleet, identity) == "completed" and fleet.versions() == ["1.0.0"] * 8)
    counters = [(name, counter) for name, counter, _ in fleet.orders]
    assert len(counters) == len(set(counters)), "a device saw two orders with one counter"
    connection = sqlite3.connect(fleet.server.data / "fleet.db")
    assert connection.execute("SELECT count(*) FROM rollout").fetchone() == (1,)
    twice = "SELECT device FROM assignment WHERE purpose = 'rollout' GROUP BY device HAVING count(*) > 1"
    assert connection.execute(twice).fetchall() == []
    connection.close()
