# SPDX-License-Identifier: Apache-2.0
"""A quarantine is lifted by a signed order: once, by name, and not lost before the device has seen it."""

import time
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgefleet.contracts.canonical import sha256_file
from edgefleet.contracts.messages import State, encode_message
from edgefleet.contracts.topics import topic

LIMIT_S = 600.0


@pytest.fixture(name="server")
def _server(new_server: Any, new_broker: Any, released: Path) -> Any:
    return new_server(released, broker=new_broker("mosquitto").url)


@pytest.fixture(name="bad")
def _bad(released: Path) -> str:
    return sha256_file(released / "bundles" / "digits-2.0.0-linux-x86_64.bundle")


class Board:
    """A device that says what it has in quarantine."""

    def __init__(self, server: Any, telemetry_link: Any, name: str) -> None:
        self.server, self.name = server, name
        self.device = server.enrol(name)
        self.link = telemetry_link(int(server.broker.rpartition(":")[2]))

    def says(self, counter: int, *quarantined: str) -> None:
        """Report, and wait until the server has heard it."""
        state = State(
            v=1,
            device=self.name,
            profile="linux-x86_64",
            connected=True,
            status="idle",
            agent_version="0",
            counter=counter,
            quarantined=quarantined,
        )
        self.link.publish(topic("acme", self.name, "state"), encode_message(state), retain=True)
        deadline = time.monotonic() + LIMIT_S
        while not self._is_heard(state):
            assert time.monotonic() < deadline, "the server never heard of the device's state"

    def _is_heard(self, state: State) -> bool:
        heard = self.server.call(f"devices/{self.name}")["state"]
        return heard is not None and msgspec.convert(heard, State, strict=False) == state

    def order(self) -> tuple[int, tuple[str, ...], list[str]]:
        order, targets = self.device.order()
        return order.counter, order.lift, [target.path for target in targets]


def test_a_lift_is_an_order_of_its_own_until_the_device_has_seen_it(
    server: Any, cli: Any, telemetry_link: Any, bad: str
) -> None:
    board = Board(server, telemetry_link, "d1")
    board.says(0, bad)
    said = cli("devices", "lift", "d1", "digits", "2.0.0", "--home", server.admin)
    assert said.out == "d1 may try digits 2.0.0 once more, by order 1\n"
    assert board.order() == (1, (bad,), [])
    cli("rollouts", "create", "digits", "1.0.0", "--home", server.admin)
    path = "digits/1.0.0/digits-1.0.0-linux-x86_64.bundle"
    assert board.order() == (2, (bad,), [path])
    board.says(2)
    refused = cli("devices", "lift", "d1", "digits", "2.0.0", "--home", server.admin, expect=1)
    assert refused.err == (
        "error: digits 2.0.0 is not in the quarantine of device 'd1'\nhint: see: edgefleet devices show d1\n"
    )
    board.says(2, bad)
    again = cli("devices", "lift", "d1", "digits", "2.0.0", "--home", server.admin, "--json").document
    assert (again["name"], again["counter"]) == ("d1", 3)
    assert board.order() == (3, (bad,), [path])
    board.says(3)
    first = server.call("rollouts")[0]["id"]
    cli("rollouts", "abort", first, "--home", server.admin)
    assert board.order()[:2] == (4, ())
    told = [(one["subject"], one["detail"]) for one in server.call("audit") if one["action"] == "quarantine-lifted"]
    assert told == [("d1", "digits 2.0.0")] * 2


def test_what_a_device_said_before_it_saw_the_lift_is_no_failure_of_a_rollout(
    server: Any, cli: Any, telemetry_link: Any, bad: str
) -> None:
    board = Board(server, telemetry_link, "d1")
    board.says(0, bad)
    cli("devices", "lift", "d1", "digits", "2.0.0", "--home", server.admin)
    made = cli("rollouts", "create", "digits", "2.0.0", "--home", server.admin, "--json").document["id"]
    counter, lift, _ = board.order()
    assert (server.call(f"rollouts/{made}")["failed"], lift) == (0, (bad,))
    board.says(counter, bad)
    assert server.call(f"rollouts/{made}")["failed"] == 1


def test_what_cannot_be_lifted_is_refused_in_one_sentence(server: Any, cli: Any, bad: str) -> None:
    server.enrol("d1")
    server.enrol("pi", "raspberry-pi-4")
    server.enrol("gone")
    cli("devices", "decommission", "gone", "--yes", "--home", server.admin)

    def refusal(*words: str, status: int) -> str:
        told = cli("devices", "lift", *words, "--home", server.admin, expect=status).err
        return str(told).partition("\n")[0].removeprefix("error: ")

    assert refusal("nobody", "digits", "2.0.0", status=1) == "device 'nobody' is not known"
    assert refusal("d1", "digits", "9.0.0", status=1) == "there is no approved release digits 9.0.0"
    assert refusal("gone", "digits", "2.0.0", status=1) == "device 'gone' was decommissioned"
    assert refusal("pi", "digits", "2.0.0", status=3) == (
        "digits 2.0.0 has no file that device 'pi' (profile 'raspberry-pi-4') can run"
    )
    cli("devices", "lift", "d1", "digits", "2.0.0", "--home", server.admin)  # who knows what it has not said yet
    assert server.call("devices/d1")["counter"] == 1
