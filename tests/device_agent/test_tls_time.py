# SPDX-License-Identifier: Apache-2.0
"""A server's certificate on a board whose clock is behind: here the clock is right, and the certificate too young."""

import contextlib
import datetime
import ipaddress
import json
import shutil
import socket
import subprocess
import sys
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509.oid import NameOID

from device_agent.adapters.network.mqtt import MqttChannel, TlsFiles
from device_agent.adapters.network.mqtt_pump import MqttPump
from device_agent.adapters.verification.trust_memory_file import TrustMemoryFile
from device_agent.core.orders.clock_judgement import day
from device_agent.core.orders.trust_memory import TrustMemory
from device_agent.repositories.in_process import InProcessRepositories
from edgefleet.contracts.enrolment import BrokerAddress
from edgefleet.contracts.errors import UnreachableError

DAY_S = 86_400.0


@pytest.fixture
def future(device_side):
    """The server gets a certificate that is valid from 20 to 60 days from now; its end is returned, in Unix seconds."""
    device_side.stop()
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    key = serialization.load_pem_private_key((device_side.folder / "server.key").read_bytes(), None)
    until = now + datetime.timedelta(days=60)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")]))
        .issuer_name(device_side.authority.name)
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(now + datetime.timedelta(days=20))
        .not_valid_after(until)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .sign(device_side.authority.key, hashes.SHA256())
    )
    (device_side.folder / "server.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    device_side.start_again()
    device_side.image.publish({}, days=100)
    device_side.assign(None, days=100)
    return until.timestamp()


def check(enrolled, bound):
    TrustMemoryFile(enrolled.trust).save(TrustMemory(bound=bound))
    return InProcessRepositories(enrolled, reserve_bytes=0).check(0)


@pytest.mark.parametrize("bound", [0.0, "now"])
def test_a_certificate_of_the_future_is_refused_by_a_clock_that_nothing_contradicts(enrolled, future, bound):
    with pytest.raises(UnreachableError, match="certificate is not yet valid"):
        check(enrolled, time.time() if bound == "now" else bound)


def test_it_is_taken_by_a_device_that_knows_its_clock_to_be_behind(enrolled, future):
    order = check(enrolled, time.time() + 30 * DAY_S)
    assert [notice.cause for notice in order.notices] == ["clock-behind"]


def test_it_is_refused_when_it_had_expired_by_what_the_device_knows(enrolled, device_side, future):
    bound = time.time() + 90 * DAY_S
    with pytest.raises(UnreachableError) as raised:
        check(enrolled, bound)
    assert raised.value.message == (
        f"the server {device_side.url} does not answer: "
        f"the server's certificate expired on {day(future)}, and it is {day(bound)} or later"
    )


def test_a_strangers_certificate_is_refused_by_a_clock_that_is_behind_too(enrolled, future):
    enrolled.ca.write_bytes(enrolled.certificate.read_bytes())
    with pytest.raises(UnreachableError, match="CERTIFICATE_VERIFY_FAILED"):
        check(enrolled, time.time() + 30 * DAY_S)


@pytest.fixture
def run_broker(device_side, tmp_path):
    """Start a mosquitto with the server's certificate of now, which wants one of devices; returns its port."""
    program = shutil.which("mosquitto", path="/usr/sbin:/usr/bin:/usr/local/sbin")
    if program is None:
        pytest.skip("mosquitto is not installed")
    started = []

    def start():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server, config = device_side.folder, tmp_path / "mosquitto.conf"
        config.write_text(
            f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\nuser root\n"
            f"cafile {server / 'ca.pem'}\ncertfile {server / 'server.pem'}\nkeyfile {server / 'server.key'}\n"
            "require_certificate true\n"
        )
        started.append(subprocess.Popen([program, "-c", str(config)], stderr=subprocess.DEVNULL))
        deadline = time.monotonic() + 120.0
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                break
        return port

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.fixture
def to_broker(enrolled):
    """Connect the device to a broker, with a time that has passed for certain."""
    pump = MqttPump()

    def connect(port, bound):
        tls = TlsFiles(enrolled.ca, enrolled.certificate, enrolled.key, lambda: bound)
        address = BrokerAddress(host="127.0.0.1", port=port, tls=True)
        return MqttChannel(pump, tenant="acme", device="dev-1", broker=address, tls=tls, random=lambda: 0.0)

    yield connect
    pump.stop()


def test_the_broker_is_judged_by_the_same_time(enrolled, future, run_broker, to_broker, agent_tools, caplog):
    port = run_broker()
    refused = to_broker(port, 0.0)
    agent_tools.wait_until(lambda: "certificate is not yet valid" in caplog.text, "a refusal by a good clock", 300.0)
    expired = to_broker(port, future + DAY_S)
    told = f"the server's certificate expired on {day(future)}, and it is {day(future + DAY_S)} or later"
    agent_tools.wait_until(lambda: told in caplog.text, "a refusal by what the device knows", 300.0)
    behind = to_broker(port, time.time() + 30 * DAY_S)
    agent_tools.wait_until(lambda: behind.connection, "a connection by a clock that is behind", 300.0)
    assert (refused.connection, expired.connection) == (0, 0)


_IN_1970 = """
import json, sys, threading, time
from pathlib import Path
from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.network.mqtt import MqttChannel, TlsFiles
from device_agent.adapters.network.mqtt_pump import MqttPump
from device_agent.adapters.verification.trust_memory_file import known_time
from device_agent.repositories.in_process import InProcessRepositories
from edgefleet.contracts.enrolment import BrokerAddress
folder = DataFolder(Path(sys.argv[1]))
order = InProcessRepositories(folder, reserve_bytes=0).check(0)
tls = TlsFiles(folder.ca, folder.certificate, folder.key, lambda: known_time(folder.trust))
address = BrokerAddress(host="127.0.0.1", port=int(sys.argv[2]), tls=True)
pump = MqttPump()
channel = MqttChannel(pump, tenant="acme", device="dev-1", broker=address, tls=tls, random=lambda: 0.0)
deadline = time.monotonic() + 300.0
while not channel.connection and time.monotonic() < deadline:
    threading.Event().wait(0.01)
print(json.dumps([time.gmtime().tm_year, [n.cause for n in order.notices], channel.connection]))
pump.stop()
"""


def test_a_board_whose_clock_says_1970_hears_of_orders_and_reaches_its_broker(enrolled, device_side, run_broker):
    if shutil.which("faketime") is None:
        pytest.skip("missing: apt-get install faketime")
    command = ["faketime", "-m", "--exclude-monotonic", "-f", "@1970-01-02 00:00:00"]
    ran = subprocess.run(
        [*command, sys.executable, "-c", _IN_1970, str(enrolled.root), str(run_broker())],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == [1970, ["clock-behind"], 1]
