# SPDX-License-Identifier: Apache-2.0
"""The shipped broker configuration, with a real mosquitto: certificates only, and each device on its own topics."""

import shutil
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from edgefleet.contracts.messages import State, encode_message

DEPLOY = Path(__file__).parents[2] / "deploy" / "server"


@pytest.fixture(name="secured")
def _secured(initialised: list[Path], tmp_path: Path, free_port: int, wait_for: Any, answers: Any) -> Iterator[int]:
    """A broker run with the shipped files; only paths and port are replaced."""
    program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
    if not Path(program).exists():
        pytest.skip("mosquitto is not installed")
    tls = tmp_path / "tls"
    shutil.copytree(initialised[0] / "srv" / "tls", tls)
    shutil.copy(DEPLOY / "edgefleet.acl", tmp_path / "edgefleet.acl")
    tmp_path.chmod(0o755)
    text = (DEPLOY / "mosquitto.conf").read_text()
    text = text.replace("/etc/mosquitto/edgefleet/", f"{tls}/").replace("/etc/mosquitto/", f"{tmp_path}/")
    text = text.replace("listener 8883", f"listener {free_port} 127.0.0.1") + "user root\n"
    (tmp_path / "mosquitto.conf").write_text(text)
    process = subprocess.Popen([program, "-c", str(tmp_path / "mosquitto.conf")], stderr=subprocess.DEVNULL)
    wait_for(lambda: answers(free_port) or process.poll() is not None, "mosquitto to listen")
    assert process.poll() is None
    yield free_port
    process.kill()
    process.wait()


def connect(port: int, authority: Path, certificate: Path | None, key: Path | None) -> tuple[mqtt.Client, list[Any]]:
    """Connect with a certificate; return the client and what it hears."""
    context = ssl.create_default_context(cafile=str(authority))
    if certificate is not None:
        context.load_cert_chain(str(certificate), str(key))
    heard: list[Any] = []
    let_in: list[bool] = []
    decided = threading.Event()

    def decide(*, well: bool) -> None:
        let_in.append(well)
        decided.set()

    client = mqtt.Client(CallbackAPIVersion.VERSION2)
    client.tls_set_context(context)
    client.on_connect = lambda *_: decide(well=True)
    client.on_disconnect = lambda *_: decide(well=False)
    client.on_message = lambda _c, _u, message: heard.append(message.topic)
    client.connect("127.0.0.1", port)
    client.loop_start()
    if not decided.wait(120) or not let_in[0]:
        client.loop_stop()
        raise ConnectionError("the broker did not let the client in")
    return client, heard


def state_of(name: str) -> bytes:
    return encode_message(State(v=1, device=name, profile="p", connected=True, status="idle", agent_version="0"))


def test_server_and_devices_meet_at_the_shipped_broker_and_no_device_speaks_for_another(
    secured: int, new_server: Any, wait_for: Any
) -> None:
    server = new_server(broker=f"mqtts://127.0.0.1:{secured}")
    one, _ = server.enrol("d1"), server.enrol("d2")
    wait_for(lambda: server.call("health")["broker_connected"], "the server at the broker")
    client, heard = connect(secured, one.folder / "ca.pem", one.folder / "crt.pem", one.folder / "key.pem")
    client.subscribe("edgefleet/v1/acme/+/state")
    client.publish("edgefleet/v1/acme/d2/state", state_of("d2"), qos=1, retain=True).wait_for_publish(120)
    client.publish("edgefleet/v1/acme/d1/state", state_of("d1"), qos=1, retain=True).wait_for_publish(120)
    wait_for(lambda: server.call("devices/d1")["state"], "the state of d1")
    assert server.call("devices/d2")["state"] is None
    assert heard == []
    client.disconnect()
    client.loop_stop()
    with pytest.raises((ssl.SSLError, ConnectionError)):
        connect(secured, one.folder / "ca.pem", None, None)
