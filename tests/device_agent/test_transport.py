# SPDX-License-Identifier: Apache-2.0
"""The ways to the broker and to the server: both protocols, TLS with client certificates, private authorities, proxies.

Against a real mosquitto; the proxy is a small one that speaks CONNECT and wants a name and a password.
"""

import base64
import contextlib
import shutil
import socket
import subprocess
import threading
import time

import paho.mqtt.client as paho
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

from device_agent.adapters.network.https import ServerConnection
from device_agent.adapters.network.mqtt import PROTOCOLS, MqttChannel, TlsFiles
from device_agent.adapters.network.mqtt_pump import MqttPump
from device_agent.adapters.network.proxy import CREDENTIALS_VARIABLE, proxy_for, tell_proxy
from edgefleet.contracts.enrolment import BrokerAddress
from edgefleet.contracts.errors import SettingError, UnreachableError
from edgefleet.contracts.messages import State

STATE = State(v=1, device="dev-1", profile="linux-x86_64", connected=True, status="idle", agent_version="1")
SECRET = "ada:correct horse"


class ConnectProxy:
    """Speaks CONNECT on loopback; who does not show the secret is refused."""

    def __init__(self):
        self.asked: list[str] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self):
        with contextlib.suppress(OSError):
            while True:
                end, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(end,), daemon=True).start()

    def _serve(self, end):
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            byte = end.recv(1)
            if not byte:
                return
            head += byte
        lines = head.decode().split("\r\n")
        target = lines[0].split()[1]
        self.asked.append(target)
        if f"Proxy-Authorization: Basic {base64.b64encode(SECRET.encode()).decode()}" not in lines:
            end.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            end.close()
            return
        host, _, port = target.rpartition(":")
        far = socket.create_connection((host, int(port)))
        end.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        threading.Thread(target=pipe, args=(end, far), daemon=True).start()
        pipe(far, end)

    def stop(self):
        self._listener.close()


def pipe(source, sink):
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy(monkeypatch, tmp_path):
    for variable in ("https_proxy", "mqtt_proxy", "all_proxy", "no_proxy", CREDENTIALS_VARIABLE):
        monkeypatch.setenv(variable, "")
        monkeypatch.delenv(variable.upper(), raising=False)
    made = ConnectProxy()
    yield made
    made.stop()


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "proxy.secret"
    path.write_text(f"{SECRET}\n")
    return path


@pytest.fixture
def tls_broker(device_side, tmp_path):
    """A mosquitto that wants certificates of the tests' private authority; gives its port, and files by owner."""
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if program is None:
        pytest.skip("mosquitto is not installed")
    files = {name: issued(device_side.authority, tmp_path, name) for name in ("broker", "dev-1", "server")}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "mosquitto.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\ncafile {files['broker'].ca}\n"
        f"certfile {files['broker'].certificate}\nkeyfile {files['broker'].key}\nrequire_certificate true\n"
        f"user root\n"
    )
    process = subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120.0
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
            break
    yield port, files
    process.kill()
    process.wait()


def issued(authority, folder, name):
    """The files of one owner, whose certificate the authority signed."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    paths = TlsFiles(folder / "ca.crt", folder / f"{name}.crt", folder / f"{name}.key")
    paths.ca.write_bytes(authority.pem)
    paths.certificate.write_bytes(authority.issue(subject, key.public_key()))
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    paths.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, plain))
    return paths


@pytest.fixture
def connect(tls_broker):
    """Make channels to the broker: ``connect(protocol, files)``."""
    port, files = tls_broker
    pump = MqttPump()

    def make(protocols=PROTOCOLS, tls=files["dev-1"]):
        address = BrokerAddress(host="127.0.0.1", port=port, tls=True)
        return MqttChannel(
            pump, tenant="acme", device="dev-1", broker=address, tls=tls, random=lambda: 0.0, protocols=protocols
        )

    yield make
    pump.stop()


@pytest.fixture
def states(tls_broker):
    """What the server hears of the device's states."""
    port, files = tls_broker
    heard: list[bytes] = []
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.tls_set(str(files["server"].ca), str(files["server"].certificate), str(files["server"].key))
    client.on_connect = lambda end, *_: end.subscribe("edgefleet/v1/acme/+/state", 1)
    client.on_message = lambda _client, _data, message: heard.append(message.payload)
    client.connect("127.0.0.1", port)
    client.loop_start()
    yield heard
    client.disconnect()
    client.loop_stop()


@pytest.mark.parametrize("protocol", [MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5])
def test_each_protocol_is_spoken_over_tls_with_the_devices_certificate(protocol, proxy, connect, states, agent_tools):
    channel = connect((protocol,))
    channel.announce(STATE)
    agent_tools.wait_until(lambda: states, "the state")
    assert channel.connection == 1
    assert proxy.asked == []


@pytest.mark.parametrize("protocol", [MQTTProtocolVersion.MQTTv311, MQTTProtocolVersion.MQTTv5])
def test_each_protocol_goes_through_a_proxy(protocol, proxy, secret, connect, states, agent_tools, tls_broker):
    tell_proxy(proxy.url, str(secret))
    channel = connect((protocol,))
    channel.announce(STATE)
    agent_tools.wait_until(lambda: states, "the state")
    assert proxy.asked == [f"127.0.0.1:{tls_broker[0]}"]


def test_a_device_with_a_certificate_of_another_authority_is_not_let_in(
    proxy, connect, agent_tools, tmp_path, device_side
):
    other = tmp_path / "other"
    other.mkdir()
    stranger = issued(type(device_side.authority)(), other, "dev-1")
    trusting = TlsFiles(tmp_path / "ca.crt", stranger.certificate, stranger.key)
    refused, good = connect((MQTTProtocolVersion.MQTTv5,), trusting), connect()
    agent_tools.wait_until(lambda: good.connection, "the good device's connection")
    assert refused.connection == 0


def test_a_broker_with_a_certificate_of_another_authority_is_not_spoken_to(
    proxy, connect, agent_tools, tmp_path, device_side, tls_broker
):
    other = tmp_path / "other"
    other.mkdir()
    elsewhere = issued(type(device_side.authority)(), other, "dev-1")
    mine = tls_broker[1]["dev-1"]
    distrusting, good = connect(tls=TlsFiles(elsewhere.ca, mine.certificate, mine.key)), connect()
    agent_tools.wait_until(lambda: good.connection, "the good device's connection")
    assert distrusting.connection == 0


def test_the_server_is_asked_through_a_proxy(proxy, secret, device_side, enrolled):
    tell_proxy(proxy.url, str(secret))
    connection = ServerConnection(device_side.url, ca=enrolled.ca, certificate=enrolled.certificate, key=enrolled.key)
    status, body = connection.read(f"/director/{'dev-1'}/metadata/timestamp.json")
    assert (status, b'"timestamp"' in b"".join(body)) == (200, True)
    connection.close()
    assert proxy.asked == [f"127.0.0.1:{device_side.port}"]


def test_a_proxy_that_refuses_is_named_without_its_secret(proxy, device_side, enrolled, tmp_path):
    wrong = tmp_path / "wrong"
    wrong.write_text("ada:guess")
    tell_proxy(proxy.url, str(wrong))
    connection = ServerConnection(device_side.url, ca=enrolled.ca, certificate=enrolled.certificate, key=enrolled.key)
    with pytest.raises(UnreachableError) as raised, connection.get("/director/dev-1/metadata/timestamp.json"):
        pass
    connection.close()
    assert raised.value.message == (
        f"the server {device_side.url} does not answer: Tunnel connection failed: 407 Proxy Authentication Required"
    )
    with pytest.raises(ConnectionRefusedError, match="refuses: 407 Proxy Authentication Required"):
        proxy_for("mqtt", "127.0.0.1").tunnel("127.0.0.1", 1, timeout_s=10.0)


@pytest.mark.parametrize(
    ("environment", "https", "mqtt"),
    [
        ({}, None, None),
        ({"HTTPS_PROXY": "http://p:1"}, "http://p:1", None),
        ({"MQTT_PROXY": "p:2"}, None, "http://p:2"),
        ({"all_proxy": "http://p:3/"}, "http://p:3", "http://p:3"),
        ({"ALL_PROXY": "http://p:3", "NO_PROXY": "other,fleet.example"}, None, None),
        ({"https_proxy": "http://[::1]:4"}, "http://[::1]:4", None),
    ],
)
def test_the_environment_says_where_the_proxy_is_as_for_other_programs(proxy, monkeypatch, environment, https, mqtt):
    for variable in ("https_proxy", "mqtt_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(variable)
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    found = [proxy_for(scheme, "fleet.example") for scheme in ("https", "mqtt")]
    assert [made and made.url for made in found] == [https, mqtt]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://ada:pw@p:1", "the proxy's address at 'p' holds a name or password"),
        ("socks5://p:1", "the proxy's address is not http://HOST:PORT"),
        ("http://p:99999", "the proxy's address is not http://HOST:PORT"),
        ("http:///x", "the proxy's address is not http://HOST:PORT"),
    ],
)
def test_another_address_of_a_proxy_is_refused_without_repeating_a_secret(url, message):
    with pytest.raises(SettingError) as raised:
        tell_proxy(url, None, {})
    assert raised.value.message == message


def test_a_proxy_shows_no_secret(proxy, secret):
    tell_proxy(proxy.url, str(secret))
    assert base64.b64encode(SECRET.encode()).decode() not in repr(proxy_for("https", "fleet.example"))
