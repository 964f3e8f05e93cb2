# SPDX-License-Identifier: Apache-2.0
"""A server, a broker or a token that is not there or not right: one sentence, a remedy, nothing changed."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleet_emulation.rehearsal import wait_until
from fleet_emulation.testbed import Testbed
from fleet_server.adapters.access.home import Home, Login

HashOf = Callable[[Path], str]
Tell = Callable[..., tuple[int, str]]
Command = Callable[..., Any]
Sentence = Callable[[str, str], str]
FrameAnswer = Callable[[Path], str]
LIMIT_S = 300.0


def server_verbs(bed: Testbed, folder: Path) -> dict[str, tuple[object, ...]]:
    """Return a command for each verb that asks the server; outputs go to ``folder``."""
    bundle = bed.folder / "bundles" / "digits-1.0.0-linux-x86_64.bundle"
    return {
        "releases publish": (bundle, "--policy", bed.folder / "policy.toml"),
        "releases list": (),
        "releases show": ("digits", "1.0.0"),
        "releases approve": ("digits", "1.0.0", "--key", "alice", "--yes"),
        "devices invite": ("d9", "--profile", "linux-x86_64", "--output", folder / "ticket.json"),
        "devices list": (),
        "devices show": ("agent-1",),
        "rollouts create": ("digits", "1.0.0"),
        "rollouts list": (),
        "rollouts status": ("x",),
        "rollouts pause": ("x",),
        "rollouts resume": ("x",),
        "rollouts abort": ("x",),
        "rollouts undo": ("x",),
        "server token": ("eve", "--role", "admin", "--output", folder / "token"),
        "audit": (),
    }


@pytest.fixture(name="stranger")
def _stranger(edgefleet: Command, tmp_path: Path) -> Path:
    """A home with a key and a login; where the login leads is each test's own matter."""
    assert edgefleet("keys", "create", "alice", "--home", tmp_path / "home").status == 0
    return tmp_path / "home"


def test_every_verb_that_asks_a_server_tells_when_there_is_none(
    edgefleet: Command,
    sentence: Sentence,
    bed: Testbed,
    stranger: Path,
    silent_port: int,
    tmp_path: Path,
    hash_of: HashOf,
) -> None:
    url = f"http://127.0.0.1:{silent_port}"
    Home(stranger).save_login(Login(server=url, token="ef_x"))
    before = hash_of(tmp_path)
    expected = sentence(
        f"the server at {url} does not answer: [Errno 111] Connection refused",
        "check the address, and that 'edgefleet server run' is running",
    )
    for verb, arguments in server_verbs(bed, tmp_path).items():
        assert edgefleet(*verb.split(), *arguments, "--home", stranger) == (1, expected), verb
    assert hash_of(tmp_path) == before


def test_every_verb_that_asks_a_server_tells_that_a_token_is_wrong(
    edgefleet: Command, sentence: Sentence, bed: Testbed, stranger: Path, tmp_path: Path, hash_of: HashOf
) -> None:
    Home(stranger).save_login(Login(server=bed.api_url, token="ef_wrong"))
    before = hash_of(tmp_path)
    releases, rollouts = bed.api.get("releases"), bed.api.get("rollouts")
    expected = sentence(
        "the API token is missing, wrong or expired",
        "run: edgefleet login --server URL --token-file FILE",
    )
    for verb, arguments in server_verbs(bed, tmp_path).items():
        assert edgefleet(*verb.split(), *arguments, "--home", stranger) == (4, expected), verb
    assert hash_of(tmp_path) == before
    assert (bed.api.get("releases"), bed.api.get("rollouts")) == (releases, rollouts)


def test_a_device_that_cannot_reach_its_server_does_not_enrol(
    sentence: Sentence, bed: Testbed, tell: Tell, silent_port: int, tmp_path: Path, hash_of: HashOf
) -> None:
    [ticket] = bed.invite(["agent-9"])
    port = silent_port
    elsewhere = msgspec.json.decode(ticket.read_bytes()) | {"server_url": f"https://127.0.0.1:{port}"}
    (tmp_path / "ticket.json").write_bytes(msgspec.json.encode(elsewhere))
    before = hash_of(tmp_path)
    data = tmp_path / "data"
    assert tell("device_agent", "enrol", "--ticket", tmp_path / "ticket.json", "--data", data) == (
        1,
        sentence(
            f"the server https://127.0.0.1:{port} does not answer: Connection refused",
            "check the network and the server, then enrol again; the ticket still holds",
        ),
    )
    assert not (data / "identity" / "device.json").exists()
    assert tell("device_agent", "enrol", "--ticket", ticket, "--data", data)[0] == 0, "the ticket still holds"
    shutil.rmtree(data)
    assert hash_of(tmp_path) == before


def test_an_agent_starts_and_answers_without_server_and_broker_and_says_so(
    frame_answer: FrameAnswer, bed: Testbed, silent_port: int
) -> None:
    agent, port = bed.agents[1], silent_port
    agent.program.stop()
    settings, identity = agent.folder / "agent.toml", agent.files.identity
    kept = settings.read_text(), identity.read_bytes()
    settings.write_text(kept[0] + f'broker = {{ host = "127.0.0.1", port = {port}, tls = false }}\n')
    elsewhere = msgspec.json.decode(kept[1]) | {"server_url": f"https://127.0.0.1:{port}"}
    identity.write_bytes(msgspec.json.encode(elsewhere))
    agent.program.log.write_text("")
    try:
        agent = bed.restart_agent(1)
        assert frame_answer(agent.socket) == "ok"
        told = [
            f"the broker at 127.0.0.1:{port} does not answer: [Errno 111] Connection refused; it is tried again",
            f"the server https://127.0.0.1:{port} does not answer: Connection refused",
        ]
        log = agent.program.log
        wait_until(lambda: all(line in log.read_text() for line in told), "both sentences", limit_s=LIMIT_S)
        assert "Traceback" not in agent.program.log.read_text()
        assert frame_answer(agent.socket) == "ok"
    finally:
        agent.program.stop()
        settings.write_text(kept[0])
        identity.write_bytes(kept[1])
        bed.restart_agent(1)


def test_a_server_starts_without_its_broker_says_so_and_goes_on(
    own_server: Callable[..., Any], silent_port: int, tmp_path: Path
) -> None:
    port = silent_port
    server = own_server(tmp_path / "srv", "--broker", f"mqtt://127.0.0.1:{port}")
    told = f"the broker at 127.0.0.1:{port} does not answer: [Errno 111] Connection refused"
    line = f"{told}; it is tried again, and everything else goes on"
    wait_until(lambda: line in server.program.last_words(), "the server to say so", limit_s=LIMIT_S)
    with server.api() as api:
        health = api.get("health")
        assert (health["status"], health["broker_connected"], health["broker"]) == ("ok", False, told)
        api.post("devices", {"name": "dev-1", "profile": "linux-x86_64"})
        assert [device["name"] for device in api.get("devices")] == ["dev-1"]
