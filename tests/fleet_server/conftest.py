# SPDX-License-Identifier: Apache-2.0
"""A real server as a subprocess, people with homes of their own, and devices that speak TLS, TUF and MQTT."""

import contextlib
import io
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
import pytest
import urllib3
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, Targets
from tuf.ngclient import FetcherInterface, TargetFile, Updater

from edgefleet.cli.main import run, verbs
from edgefleet.contracts.bundle import describe_members, pack
from edgefleet.contracts.enrolment import EnrolmentRequest, EnrolmentTicket, HardwareFacts
from edgefleet.contracts.manifest import (
    AcceptanceExamples,
    Budgets,
    Interface,
    Lineage,
    Manifest,
    ParityVectors,
    Preprocessing,
    ProfileReference,
    RuntimeRequirement,
    TensorSpec,
    Tolerances,
)
from edgefleet.contracts.messages import (
    Confusion,
    Event,
    Message,
    ModelWindow,
    RunningRelease,
    State,
    Telemetry,
    encode_message,
)
from edgefleet.contracts.topics import topic
from edgefleet.contracts.tuf_custom import Assignment, read_assignment

#: Ends a test that fails; a machine that does much else needs some of it for the start of a process.
DEADLINE_S = 120.0
POLICY = """
format_version = 1
[rollout]
holdout_percent = 25.0
waves = [{ percent = 25.0, minimum_s = 60.0 }, { percent = 100.0, minimum_s = 60.0 }]
[rollout.gate]
minimum_requests = 20
minimum_labels = 40
accuracy_drop = 0.1
failed_devices = 0.2
limit_s = 600000.0
"""


def wait_for(condition: Callable[[], Any], what: str, deadline_s: float = DEADLINE_S) -> Any:
    """Return the condition's first true value, or fail."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        threading.Event().wait(0.05)
    raise AssertionError(f"waited {deadline_s} s for: {what}")


@pytest.fixture(scope="session", name="wait_for")
def wait_for_fixture() -> Callable[..., Any]:
    return wait_for


def make_bundle(
    folder: Path,
    name: str = "digits",
    version: str = "1.0.0",
    profile: str = "linux-x86_64",
    *,
    acceptance: bytes | None = None,
    model: bytes = b"model",
) -> Path:
    """Write a bundle that keeps every rule of the format; its model is a few bytes."""
    members = {
        "model/model.tflite": model + version.encode(),
        "golden/in.bin": bytes(4),
        "golden/out.bin": bytes(4),
    }
    if acceptance is not None:
        members["golden/acceptance.npz"] = acceptance
    described = describe_members(members)
    examples = next((member for member in described if member.path == "golden/acceptance.npz"), None)
    tensor = TensorSpec(name="x", shape=(1, 1), dtype="float32")
    manifest = Manifest(
        format_version=1,
        name=name,
        version=version,
        task="classification",
        metric="accuracy",
        precision="int8",
        profile=ProfileReference(id=profile, compat_hash="0" * 64),
        runtime=RuntimeRequirement(kind="litert", minimum_version="1.0", numerics="litert/1"),
        interface=Interface(inputs=(tensor,), outputs=(tensor,)),
        preprocessing=Preprocessing(),
        tolerances=Tolerances(unit="lsb", reference=0, production=1),
        budgets=Budgets(),
        parity=ParityVectors(samples=1, inputs=("golden/in.bin",), outputs=("golden/out.bin",)),
        acceptance=None
        if examples is None
        else AcceptanceExamples(
            path="golden/acceptance.npz", sha256=examples.sha256, samples=1, metric="accuracy", value=1.0
        ),
        model="model/model.tflite",
        members=described,
        lineage=Lineage(source_sha256="0" * 64, recipe_sha256="0" * 64),
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{version}-{profile}.bundle"
    path.write_bytes(pack(manifest, members))
    return path


@pytest.fixture(scope="session", name="make_bundle")
def make_bundle_fixture() -> Callable[..., Path]:
    return make_bundle


@dataclass
class CommandResult:
    """What a command printed and how it ended."""

    status: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        return json.loads(self.out)


def run_cli(*arguments: object, expect: int | None = 0) -> CommandResult:
    """Run ``edgefleet`` through its front door, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = run([str(argument) for argument in arguments], verbs())
    if expect is not None:
        assert status == expect, (arguments, out.getvalue(), err.getvalue())
    return CommandResult(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="session", name="cli")
def cli_fixture() -> Callable[..., CommandResult]:
    return run_cli


@dataclass
class FleetServer:
    """A server process and its administrator."""

    folder: Path
    broker: str | None = None
    time_scale: float = 1.0
    process: subprocess.Popen[str] | None = None
    api: str = ""
    device_url: str = ""
    ports: tuple[int, int] = (0, 0)
    captures_bytes: int = 0

    @property
    def data(self) -> Path:
        return self.folder / "srv"

    @property
    def admin(self) -> Path:
        return self.folder / "admin"

    def start(self) -> None:
        command = [sys.executable, "-c", "from edgefleet.cli.main import main; main()", "server", "run"]
        command += ["--data", str(self.data), "--listen", f"127.0.0.1:{self.ports[0]}"]
        command += ["--device-listen", f"127.0.0.1:{self.ports[1]}", "--time-scale", str(self.time_scale), "--json"]
        command += ["--broker", self.broker] if self.broker else []
        command += ["--captures-bytes", str(self.captures_bytes)] if self.captures_bytes else []
        with (self.folder / "server.log").open("a") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.folder / "server.log").read_text()
        ready = json.loads(line)
        self.api, self.device_url = ready["api"], ready["device"]
        self.ports = (int(self.api.rpartition(":")[2]), int(self.device_url.rpartition(":")[2]))

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        status = self.process.wait(timeout=DEADLINE_S)
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.process = None
        return status

    def login(self, home: Path, token_file: Path | None = None) -> Path:
        run_cli("login", "--server", self.api, "--token-file", token_file or self.admin / "token", "--home", home)
        return home

    def call(self, path: str) -> Any:
        """Read a document of the API as the administrator."""
        token = (self.admin / "token").read_text()
        answer = urllib3.PoolManager().request(
            "GET", f"{self.api}/api/v1/{path}", headers={"authorization": f"Bearer {token}"}
        )
        assert answer.status == 200, answer.data
        return json.loads(answer.data)

    def approver(self, name: str) -> Path:
        """Make a person with a key and an approver's token, logged in."""
        home = self.folder / name
        run_cli("keys", "create", name, "--home", home)
        token = self.folder / f"{name}.token"
        run_cli("server", "token", name, "--role", "approver", "--output", token, "--home", self.admin)
        return self.login(home, token)

    def delegate(self, product: str, *homes: Path, threshold: int = 2) -> None:
        approvers = [part for home in homes for part in ("--approver", home / "keys" / f"{home.name}.pub.json")]
        run_cli(
            "keys", "delegate", product, "--data", self.data, "--home", self.admin, "--threshold", threshold, *approvers
        )

    def release(self, *bundles: Path, policy: str, approvers: list[Path]) -> None:
        """Publish and approve a release."""
        file = self.folder / "policy.toml"
        file.write_text(policy)
        made = run_cli("releases", "publish", *bundles, "--policy", file, "--home", self.admin, "--json").document
        for home in approvers:
            run_cli("releases", "approve", made["name"], made["version"], "--key", home.name, "--home", home, "--yes")

    def enrol(self, name: str, profile: str = "linux-x86_64") -> "TestDevice":
        ticket = self.folder / f"{name}.ticket.json"
        run_cli("devices", "invite", name, "--profile", profile, "--output", ticket, "--home", self.admin)
        device = TestDevice(msgspec.json.decode(ticket.read_bytes(), type=EnrolmentTicket), self.folder / "dev" / name)
        assert device.enrol().status == 200
        return device


@pytest.fixture(scope="session", name="initialised")
def initialised_fixture(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two freshly initialised servers (with keys of their own), to be copied."""
    made = []
    for _ in range(2):
        server = FleetServer(tmp_path_factory.mktemp("initialised"))
        run_cli("server", "init", "--data", server.data, "--tenant", "acme", "--admin-home", server.admin)
        made.append(server.folder)
    return made


@pytest.fixture(scope="session", name="released")
def released_fixture(initialised: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stopped server whose product ``digits`` has the approved releases 1.0.0 and 2.0.0, to be copied."""
    folder = tmp_path_factory.mktemp("released") / "fleet"
    shutil.copytree(initialised[0], folder)
    server = FleetServer(folder)
    server.start()
    server.login(server.admin)
    people = [server.approver("ada"), server.approver("bob")]
    server.delegate("digits", *people)
    for version in ("1.0.0", "2.0.0"):
        server.release(make_bundle(folder / "bundles", version=version), policy=POLICY, approvers=people)
    server.stop()
    return folder


@contextlib.contextmanager
def running_server(template: Path, folder: Path, **options: Any) -> Iterator[FleetServer]:
    shutil.copytree(template, folder)
    server = FleetServer(folder, **options)
    server.start()
    server.login(server.admin)
    yield server
    if server.process is not None:
        server.stop()


@pytest.fixture(name="new_server")
def new_server_fixture(tmp_path: Path, initialised: list[Path]) -> Iterator[Callable[..., FleetServer]]:
    """Start servers; each is stopped at the end."""
    with contextlib.ExitStack() as stack:

        def make(template: Path = initialised[0], **options: Any) -> FleetServer:
            return stack.enter_context(running_server(template, tmp_path / "fleet", **options))

        yield make


@pytest.fixture(scope="module", name="shared_server")
def shared_server_fixture(initialised: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetServer]:
    """One server for all tests of a module; each uses device and product names of its own."""
    folder = tmp_path_factory.mktemp("shared") / "fleet"
    with running_server(initialised[0], folder, time_scale=100.0) as server:
        yield server


def make_csr(common_name: str, key: ec.EllipticCurvePrivateKey | None = None) -> str:
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    request = builder.sign(key or ec.generate_private_key(ec.SECP256R1()), hashes.SHA256())
    return request.public_bytes(Encoding.PEM).decode()


@pytest.fixture(name="device_csr")
def device_csr_fixture() -> Callable[[str], str]:
    return make_csr


@dataclass
class TestDevice:
    """A device: its own key, python-tuf's unmodified client over mutual TLS."""

    __test__ = False
    ticket: EnrolmentTicket
    folder: Path
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def name(self) -> str:
        return self.ticket.device

    def csr(self, common_name: str | None = None) -> str:
        return make_csr(common_name or self.name, self.key)

    def request(self, **changed: Any) -> EnrolmentRequest:
        facts = HardwareFacts(
            architecture="x86_64", kernel="6", cpu_count=2, memory_bytes=1, python="3.11", runtime="x"
        )
        values = {"device": self.name, "token": self.ticket.token, "csr_pem": self.csr(), "facts": facts} | changed
        return EnrolmentRequest(**values)

    def enrol(self, request: EnrolmentRequest | None = None) -> Any:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "ca.pem").write_text(self.ticket.ca_pem)
        body = msgspec.json.encode(request or self.request())
        answer = self.pool(certificate=False).request("POST", f"{self.ticket.server_url}/v1/enrol", body=body)
        if answer.status == 200:
            (self.folder / "crt.pem").write_text(json.loads(answer.data)["certificate_pem"])
            pem = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            (self.folder / "key.pem").write_bytes(pem)
        return answer

    def pool(self, *, certificate: bool = True) -> urllib3.PoolManager:
        context = ssl.create_default_context(cafile=str(self.folder / "ca.pem"))
        if certificate:
            context.load_cert_chain(str(self.folder / "crt.pem"), str(self.folder / "key.pem"))
        return urllib3.PoolManager(ssl_context=context, retries=False)

    def get(self, path: str, *, certificate: bool = True, **headers: str) -> Any:
        return self.pool(certificate=certificate).request("GET", self.ticket.server_url + path, headers=headers)

    def order(self) -> tuple[Assignment, list[TargetFile]]:
        """Refresh the director, and return the order and its targets."""
        self._updater("director", self.ticket.director_root, f"/director/{self.name}/metadata/").refresh()
        signed = Metadata[Targets].from_file(str(self.folder / "director" / "targets.json")).signed
        return read_assignment(signed.unrecognized_fields), list(signed.targets.values())

    def fetch(self, path: str) -> bytes:
        """Look a target path up in the image repository, and download it."""
        updater = self._updater("image", self.ticket.image_root, "/image/metadata/")
        info = updater.get_targetinfo(path)
        assert info is not None
        return Path(
            updater.download_target(info, target_base_url=f"{self.ticket.server_url}/image/targets/")
        ).read_bytes()

    def target(self, path: str) -> TargetFile | None:
        return self._updater("image", self.ticket.image_root, "/image/metadata/").get_targetinfo(path)

    def _updater(self, repository: str, root: str, path: str) -> Updater:
        folder = self.folder / repository
        (folder / "files").mkdir(parents=True, exist_ok=True)
        return Updater(
            str(folder),
            self.ticket.server_url + path,
            target_dir=str(folder / "files"),
            fetcher=_PoolFetcher(self.pool()),
            bootstrap=root.encode(),
        )


class _PoolFetcher(FetcherInterface):
    def __init__(self, pool: urllib3.PoolManager) -> None:
        self._pool = pool

    def _fetch(self, url: str) -> Iterator[bytes]:
        answer = self._pool.request("GET", url)
        if answer.status != 200:
            raise DownloadHTTPError(f"status {answer.status}", answer.status)
        yield answer.data


@dataclass
class Broker:
    """A broker process on a free port."""

    kind: str
    port: int
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"mqtt://127.0.0.1:{self.port}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(name="free_port")
def free_port_fixture() -> int:
    return free_port()


def start_broker(kind: str, folder: Path, port: int) -> Broker:
    if kind == "mosquitto":
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        if not os.access(program, os.X_OK):
            pytest.skip("mosquitto is not installed")
        config = folder / f"mosquitto-{port}.conf"
        config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
        command = [program, "-c", str(config)]
    else:
        pytest.importorskip("amqtt", reason="amqtt is not installed")
        config = folder / f"amqtt-{port}.yaml"
        config.write_text(
            f"listeners:\n  default:\n    type: tcp\n    bind: 127.0.0.1:{port}\n"
            "plugins:\n  amqtt.plugins.authentication.AnonymousAuthPlugin:\n    allow_anonymous: true\n"
        )
        command = [sys.executable, "-m", "amqtt.scripts.broker_script", "-c", str(config)]
        found = Path(sys.executable).with_name("amqtt")
        command = [str(found), "-c", str(config)] if found.exists() else command
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    broker = Broker(kind, port, process)
    wait_for(lambda: answers(port) or process.poll() is not None, f"{kind} to listen")
    assert process.poll() is None, f"{kind} ended"
    return broker


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@pytest.fixture(name="answers")
def answers_fixture() -> Callable[[int], bool]:
    return answers


@pytest.fixture(name="new_broker")
def new_broker_fixture(tmp_path: Path) -> Iterator[Callable[..., Broker]]:
    """Start brokers; each is stopped at the end."""
    made: list[Broker] = []

    def make(kind: str = "mosquitto", port: int = 0) -> Broker:
        made.append(start_broker(kind, tmp_path, port or free_port()))
        return made[-1]

    yield make
    for broker in made:
        broker.process.kill()
        broker.process.wait()


class TelemetryLink:
    """Many devices' MQTT side over one connection: sends states, events and windows, hears watermarks and hints."""

    def __init__(self, port: int) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        self._sequences: dict[tuple[str, str], int] = {}
        self._connected = threading.Event()
        self.client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=MQTTProtocolVersion.MQTTv311)
        self.client.on_connect = self._on_connect
        self.client.on_message = lambda _c, _u, m: self.heard.append((m.topic, json.loads(m.payload)))
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert self._connected.wait(DEADLINE_S)

    def _on_connect(self, client: mqtt.Client, *_: Any) -> None:
        client.subscribe([("edgefleet/v1/acme/+/watermark", 1), ("edgefleet/v1/acme/+/hint", 1)])
        self._connected.set()

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def publish(self, name: str, payload: bytes, *, retain: bool = False) -> None:
        self.client.publish(name, payload, qos=1, retain=retain).wait_for_publish(DEADLINE_S)

    def send(self, device: str, body: Any, *, epoch: str = "0" * 16, sequence: int | None = None) -> bytes:
        number = sequence or self._sequences.get((device, epoch), 0) + 1
        self._sequences[(device, epoch)] = number
        message = Message(v=1, device=device, epoch=epoch, sequence=number, created_at=time.time(), body=body)
        channel = "telemetry" if isinstance(body, Telemetry) else "event"
        payload = encode_message(message)
        self.publish(topic("acme", device, channel), payload)
        return payload

    def state(
        self,
        device: str,
        running: RunningRelease | None,
        *,
        counter: int,
        connected: bool = True,
        also_running: tuple[RunningRelease, ...] = (),
        software: RunningRelease | None = None,
    ) -> None:
        state = State(
            v=2 if also_running or software else 1,
            device=device,
            profile="linux-x86_64",
            connected=connected,
            status="idle",
            agent_version="0",
            counter=counter,
            running=running,
            also_running=also_running,
            software=software,
        )
        self.publish(topic("acme", device, "state"), encode_message(state), retain=True)

    def window(self, device: str, release: RunningRelease, *, right: int, wrong: int, compared: int = 0) -> None:
        now = time.time()
        labelled = Confusion(actual=(0, 0), predicted=(0, 1), counts=(right, wrong))
        model = ModelWindow(
            release=release, role="active", requests=right + wrong, labelled=labelled, compared=compared
        )
        self.send(device, Telemetry(window_start=now - 1, window_end=now, models=(model,)))

    def event(self, device: str, kind: Any, release: RunningRelease, *, counter: int) -> None:
        self.send(device, Event(kind=kind, cause="test", release=release, counter=counter))

    def watermark(self, device: str, epoch: str = "0" * 16) -> int:
        name = topic("acme", device, "watermark")
        return max((m["sequence"] for t, m in self.heard if t == name and m["epoch"] == epoch), default=0)


@pytest.fixture(name="telemetry_link")
def telemetry_link_fixture() -> Iterator[Callable[[int], TelemetryLink]]:
    """Connect devices' MQTT side; closed at the end."""
    made: list[TelemetryLink] = []

    def make(port: int) -> TelemetryLink:
        made.append(TelemetryLink(port))
        return made[-1]

    yield make
    for link in made:
        link.close()


@pytest.fixture(scope="session", name="policy_text")
def policy_text_fixture() -> str:
    return POLICY
