# SPDX-License-Identifier: Apache-2.0
"""A fleet server's device side for tests: two real TUF repositories over real HTTPS with client certificates."""

import contextlib
import datetime
import hashlib
import http.server
import importlib.util
import ipaddress
import itertools
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from device_agent.adapters.network.https import ServerConnection
from device_agent.adapters.system.own_software import OwnSoftware
from device_agent.adapters.verification.trust import TufTrust
from device_agent.admission.checks import InProcessAdmission
from device_agent.core.orders.ordered_targets import hashed_path
from device_agent.core.orders.software_trial import SYSTEM
from device_agent.errors import TrustRefusedError
from device_agent.launcher import FOLDER_VARIABLE, SET_VARIABLE, SYSTEM_VARIABLE
from device_agent.repositories.in_process import InProcessRepositories
from device_agent.settings import AgentSettings
from device_agent.wiring import assemble
from device_agent.worker.engine import Engine
from device_agent.worker.in_process import InProcessInference
from edgefleet.contracts import bundle as bundle_format
from edgefleet.contracts import manifest as m
from edgefleet.contracts.enrolment import BrokerAddress, EnrolmentAnswer, EnrolmentRequest, EnrolmentTicket
from edgefleet.contracts.messages import Event
from edgefleet.contracts.names import bundle_target_path
from edgefleet.contracts.policy import DevicePolicy, ShadowRule, TrialRule
from edgefleet.contracts.software import SOFTWARE_NAME, software_target_path
from edgefleet.contracts.tuf_custom import Assignment, ReleaseCustom, SoftwareCustom, Standing, to_custom
from edgefleet.runtimes.litert import LiteRtInterpreter
from edgefleet.version import __version__

TENANT, DEVICE, PROFILE = "acme", "dev-1", "linux-x86_64"
COMPAT = "c" * 64
ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "examples" / "digits"
#: Ends a test that fails; a machine that does much else needs half of it for the start of a process.
LIMIT_S = 120.0


@dataclass
class MadeBundle:
    """A bundle's bytes with the facts that tests ask for."""

    data: bytes
    name: str
    version: str
    manifest: m.Manifest

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @property
    def path(self) -> str:
        return bundle_target_path(self.name, self.version, PROFILE)


def make_bundle(
    model: bytes,
    version: str,
    *,
    name: str = "digits",
    spoil_parity: bool = False,
    budgets: m.Budgets | None = None,
    runtime: m.RuntimeRequirement | None = None,
) -> MadeBundle:
    """Pack a float digits model, with parity vectors by the reference kernels."""
    interpreter = LiteRtInterpreter(model, kernels="reference")
    pictures = np.load(DIGITS / "digits.npz")["calibration_x"][:8].astype(np.float32)
    outputs = np.concatenate([interpreter.invoke([p[np.newaxis]])[0] for p in pictures])
    if spoil_parity:
        outputs = outputs[:, ::-1].copy()
    acceptance = (DIGITS / "acceptance.npz").read_bytes()
    members = {
        "model/model.tflite": model,
        "golden/input.bin": pictures.tobytes(),
        "golden/output.bin": outputs.astype("<f4").tobytes(),
        m.ACCEPTANCE_PATH: acceptance,
        m.MODEL_CARD_PATH: b"# digits\n",
    }
    manifest = m.Manifest(
        format_version=1,
        name=name,
        version=version,
        task="classification",
        metric="accuracy",
        precision="float32",
        profile=m.ProfileReference(id=PROFILE, compat_hash=COMPAT),
        runtime=runtime or m.RuntimeRequirement(kind="litert", minimum_version="2.0.0", numerics="litert/1"),
        interface=m.Interface(inputs=interpreter.inputs, outputs=interpreter.outputs, labels=tuple("0123456789")),
        preprocessing=m.Preprocessing(),
        tolerances=m.Tolerances(unit="absolute", reference=1e-6, production=1e-3),
        budgets=budgets or m.Budgets(),
        parity=m.ParityVectors(samples=8, inputs=("golden/input.bin",), outputs=("golden/output.bin",)),
        acceptance=m.AcceptanceExamples(
            path=m.ACCEPTANCE_PATH,
            sha256=hashlib.sha256(acceptance).hexdigest(),
            samples=158,
            metric="accuracy",
            value=0.98,
        ),
        model="model/model.tflite",
        members=bundle_format.describe_members(members),
        lineage=m.Lineage(source_sha256="0" * 64, recipe_sha256="1" * 64),
    )
    return MadeBundle(bundle_format.pack(manifest, members), name, version, manifest)


def model_file(name: str) -> bytes:
    path = DIGITS / f"{name}_float32.tflite"
    if not path.exists():
        pytest.skip(f"'{path.name}' is missing in examples/digits; make it with examples/digits/train.py")
    return path.read_bytes()


@pytest.fixture(scope="session")
def agent_bundles():
    """Digits models by name: good `v1` and `v5`, `v3` with NaN on blank frames, and broken ones made from v1."""
    v1 = model_file("v1")
    return SimpleNamespace(
        v1=make_bundle(v1, "1.0.0"),
        v3=make_bundle(model_file("v3"), "3.0.0"),
        v5=make_bundle(model_file("v5"), "5.0.0"),
        wrong_parity=make_bundle(v1, "6.0.0", spoil_parity=True),
        figures_v1=make_bundle(v1, "1.0.0", name="figures"),
        figures_v3=make_bundle(model_file("v3"), "3.0.0", name="figures"),
        old_runtime=make_bundle(
            v1,
            "8.0.0",
            runtime=m.RuntimeRequirement(kind="tflite-runtime", minimum_version="2.14.0", numerics="litert/1"),
        ),
        too_slow=make_bundle(v1, "7.0.0", budgets=m.Budgets(latency_p99_us=0)),
    )


@pytest.fixture(scope="session")
def digits_live():
    """Live pictures (N, 8, 8, 1) as float32, and their labels."""
    data = np.load(DIGITS / "digits.npz")
    return data["live_x"].astype(np.float32), data["live_y"].astype(int)


def in_days(days: float) -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(days=days)


@dataclass
class Repository:
    """One TUF repository, kept in memory as the files that it serves; ``days`` may be negative.

    ``standing`` is said by the delegated role, ``top_standing`` by the top-level targets.
    """

    delegation: str | None = None
    threshold: int = 1
    files: dict[str, bytes] = field(default_factory=dict)
    version: int = 0
    standing: Standing | None = None
    top_standing: Standing | None = None
    paths: tuple[str, ...] = ("digits/*/*", "figures/*/*", "settings/*/*", "edgefleet-agent/*/*")

    def __post_init__(self) -> None:
        roles = ("root", "targets", "snapshot", "timestamp")
        self.signers = {role: CryptoSigner.generate_ed25519() for role in roles}
        self.approvers = [CryptoSigner.generate_ed25519() for _ in range(self.threshold)]
        root = Metadata(Root(version=1, expires=in_days(365), consistent_snapshot=True))
        for role in roles:
            root.signed.add_key(self.signers[role].public_key, role)
        root.sign(self.signers["root"])
        self.root = root.to_bytes()
        self.files["1.root.json"] = self.root

    def publish(
        self,
        targets: dict[str, TargetFile],
        *,
        fields: dict[str, object] | None = None,
        days: float = 7,
        signatures: int | None = None,
        version: int | None = None,
    ) -> None:
        """Sign and serve new metadata; with a delegation the targets go there, signed by ``signatures`` approvers."""
        self.version = version or self.version + 1
        meta = {"targets.json": MetaFile(version=self.version)}
        top = Targets(version=self.version, expires=in_days(days), targets={} if self.delegation else targets)
        top.unrecognized_fields.update(fields or {})
        if self.top_standing is not None:
            top.unrecognized_fields.update(to_custom(self.top_standing))
        if self.delegation:
            keys = {signer.public_key.keyid: signer.public_key for signer in self.approvers}
            role = DelegatedRole(self.delegation, list(keys), self.threshold, terminating=True, paths=list(self.paths))
            top.delegations = Delegations(keys, {self.delegation: role})
            delegated = Metadata(Targets(version=self.version, expires=in_days(days), targets=targets))
            if self.standing is not None:
                delegated.signed.unrecognized_fields.update(to_custom(self.standing))
            for signer in self.approvers[: self.threshold if signatures is None else signatures]:
                delegated.sign(signer, append=True)
            self.files[f"{self.version}.{self.delegation}.json"] = delegated.to_bytes()
            meta[f"{self.delegation}.json"] = MetaFile(version=self.version)
        self._sign("targets", top, f"{self.version}.targets.json")
        self._sign(
            "snapshot",
            Snapshot(version=self.version, expires=in_days(days), meta=meta),
            f"{self.version}.snapshot.json",
        )
        timestamp = Timestamp(version=self.version, expires=in_days(days), snapshot_meta=MetaFile(version=self.version))
        self._sign("timestamp", timestamp, "timestamp.json")

    def _sign(self, role: str, signed: object, name: str) -> None:
        metadata = Metadata(signed)
        metadata.sign(self.signers[role])
        self.files[name] = metadata.to_bytes()


class Authority:
    """A certificate authority."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        builder = self._builder(self.name, self.key.public_key())
        constraints = x509.BasicConstraints(ca=True, path_length=None)
        self.certificate = builder.add_extension(constraints, critical=True).sign(self.key, hashes.SHA256())

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def issue(self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> bytes:
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        certificate = self._builder(subject, public_key).add_extension(names, critical=False)
        return certificate.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    def _builder(self, subject: x509.Name, public_key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(in_days(-1))
            .not_valid_after(in_days(30))
        )


class DeviceSide:
    """What a device sees of a server: enrolment, both repositories, bundles; and faults to inject."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.authority = Authority()
        self.image = Repository(delegation="production-digits", threshold=2)
        self.director = Repository()
        self.counter = 0
        self.releases: dict[str, TargetFile] = {}
        self.bundles: dict[str, bytes] = {}
        self.tokens = {"one-time"}
        self.broker: BrokerAddress | None = None
        self.corrupt_downloads = 0
        self.cut_downloads = 0
        self.connections: set[socket.socket] = set()
        self.requests: list[tuple[str, str]] = []
        self.silent_below: str | None = None
        self._speaks = threading.Event()
        self.image.publish({})
        self._listen()

    def release(self, made: MadeBundle, policy: DevicePolicy | None = None, **facts: object) -> TargetFile:
        """Approve a bundle with all approvers' signatures."""
        custom = ReleaseCustom(
            name=made.name,
            version=made.version,
            profile=facts.pop("profile", PROFILE),
            compat_hash=COMPAT,
            policy_sha256="2" * 64,
            device_policy=policy or quick_policy(),
        )
        fields = {"custom": to_custom(custom)}
        target = TargetFile(len(made.data), {"sha256": made.sha256}, made.path, fields)
        self.releases[made.path] = target
        self.bundles[f"{made.path.rpartition('/')[0]}/{made.sha256}.{made.path.rpartition('/')[2]}"] = made.data
        self.image.publish(self.releases, **facts)
        return target

    def release_software(self, file: Path, version: str = "1.0.0", **facts: object) -> TargetFile:
        """Approve a wheel set of the agent's own software; ``facts`` are its custom's."""
        values = {"name": SOFTWARE_NAME, "machine": "any", "python": "any", "policy_sha256": "2" * 64} | facts
        custom = SoftwareCustom(version=version, **values)
        path = software_target_path(custom.version, custom.machine, custom.python)
        target = TargetFile.from_data(path, file.read_bytes(), ["sha256"])
        target.unrecognized_fields["custom"] = to_custom(custom)
        self.releases[path] = target
        self.bundles[hashed_path(path, target.hashes["sha256"])] = file.read_bytes()
        self.image.publish(self.releases)
        return target

    def assign(
        self,
        target: TargetFile | None,
        *also: TargetFile,
        counter: int | None = None,
        days: float = 7,
        **facts: object,
    ) -> int:
        """Order the device to run targets (None: nothing new); ``facts`` are the assignment's."""
        self.counter = self.counter + 1 if counter is None else counter
        facts = {"tenant": TENANT, "device": DEVICE, "profile": PROFILE} | facts
        assignment = Assignment(counter=self.counter, **facts)
        listed = [] if target is None else [target, *also]
        targets = {each.path: TargetFile(each.length, each.hashes, each.path) for each in listed}
        self.director.publish(targets, fields=to_custom(assignment), days=days)
        return self.counter

    def assign_set(self, *targets: TargetFile, **fields: object) -> int:
        """Order the device to run a set of releases."""
        self.counter += 1
        assignment = Assignment(counter=self.counter, tenant=TENANT, device=DEVICE, profile=PROFILE, **fields)
        listed = {target.path: TargetFile(target.length, target.hashes, target.path) for target in targets}
        self.director.publish(listed, fields=to_custom(assignment))
        return self.counter

    def ticket(self) -> EnrolmentTicket:
        return EnrolmentTicket(
            server_url=self.url,
            tenant=TENANT,
            device=DEVICE,
            profile=PROFILE,
            token="one-time",
            ca_pem=self.authority.pem.decode(),
            image_root=self.image.root.decode(),
            director_root=self.director.root.decode(),
        )

    def enrol(self, request: EnrolmentRequest) -> tuple[int, bytes]:
        if request.token not in self.tokens:
            return 403, json.dumps({"detail": "the token was used already"}).encode()
        self.tokens.discard(request.token)
        csr = x509.load_pem_x509_csr(request.csr_pem.encode())
        pem = self.authority.issue(csr.subject, csr.public_key())
        return 200, msgspec.json.encode(EnrolmentAnswer(certificate_pem=pem.decode(), broker=self.broker))

    def find(self, path: str) -> bytes | None:
        if path.startswith("/image/metadata/"):
            return self.image.files.get(path.removeprefix("/image/metadata/"))
        if path.startswith(f"/director/{DEVICE}/metadata/"):
            return self.director.files.get(path.removeprefix(f"/director/{DEVICE}/metadata/"))
        return self.bundles.get(path.removeprefix("/image/targets/"))

    @contextlib.contextmanager
    def silent(self, below: str = "/"):
        """Take requests below a path, and answer none before this ends."""
        self._speaks.clear()
        self.silent_below = below
        try:
            yield
        finally:
            self.silent_below = None
            self._speaks.set()

    def hold(self, path: str) -> None:
        """Wait while paths like this one are silent."""
        if self.silent_below is not None and path.startswith(self.silent_below):
            self._speaks.wait()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self.connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._thread.join(LIMIT_S)

    def start_again(self) -> None:
        """Listen again on the port of before."""
        self._listen(self.port)

    def _listen(self, port: int = 0) -> None:
        side = self

        class Handler(_Handler):
            server_side = side

        self._server = _Server(("127.0.0.1", port), Handler, bind_and_activate=True)
        self._server.daemon_threads = True
        self.port = self._server.server_address[1]
        self.url = f"https://127.0.0.1:{self.port}"
        self._server.socket = self._context().wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def _context(self) -> ssl.SSLContext:
        certificate, key, ca = (self.folder / name for name in ("server.pem", "server.key", "ca.pem"))
        if not ca.exists():
            server_key = ec.generate_private_key(ec.SECP256R1())
            subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
            certificate.write_bytes(self.authority.issue(subject, server_key.public_key()))
            pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            key.write_bytes(server_key.private_bytes(serialization.Encoding.PEM, pkcs8, plain))
            ca.write_bytes(self.authority.pem)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(ca)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context


class _Server(http.server.ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """A client that ends a connection early is part of some tests."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_side: DeviceSide

    def setup(self) -> None:
        super().setup()
        self.server_side.connections.add(self.connection)

    def finish(self) -> None:
        self.server_side.connections.discard(self.connection)
        super().finish()

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self._reply(*self.server_side.enrol(msgspec.json.decode(body, type=EnrolmentRequest)))

    def do_GET(self) -> None:
        side = self.server_side
        side.requests.append((self.path, self.headers.get("Range", "")))
        side.hold(self.path)
        subject = dict(part[0] for part in (self.connection.getpeercert() or {}).get("subject", ()))
        if subject.get("commonName") != DEVICE:
            self._reply(403, b"")
            return
        data = side.find(self.path)
        if data is None:
            self._reply(404, b"")
        elif self.path.startswith("/image/targets/"):
            self._bundle(data)
        else:
            self._reply(200, data)

    def _bundle(self, data: bytes) -> None:
        side = self.server_side
        if side.corrupt_downloads:
            side.corrupt_downloads -= 1
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(asked[1]) if asked else 0
        rest = data[first:]
        if side.cut_downloads:
            side.cut_downloads -= 1
            self._reply(206 if asked else 200, rest[: len(rest) // 2], announce=len(rest))
            self.close_connection = True
        else:
            self._reply(206 if asked else 200, rest)

    def _reply(self, status: int, body: bytes, announce: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if announce is None else announce))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Tests look at what was served, not at a log."""


def quick_policy(**changes: object) -> DevicePolicy:
    """A device policy whose shadow and trial end by counts alone."""
    trial = {"requests": 10, "minimum_s": 0.0} | changes
    return DevicePolicy(shadow=ShadowRule(samples=5), trial=TrialRule(**trial))


def wait_until(condition, what: str, timeout_s: float = LIMIT_S):
    """Wait until ``condition`` gives something true, and return it; the deadline only ends a failing test."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        threading.Event().wait(0.01)
    return value


def workers_of(pid: int) -> list[int]:
    """Process ids of an agent's inference workers, the one at work first; behind it may be a spare one that waits.

    ``/proc/PID/task/PID/children`` would be shorter, and leaves one out when another one ends meanwhile (proc(5)).
    """
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            facts = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(facts[1]) == pid and b"device_agent.worker.main" in (entry / "cmdline").read_bytes():
                found.append((int(facts[19]), int(entry.name)))
    return [number for _, number in sorted(found)]


def worker_of(pid: int) -> int:
    """Wait for the worker that is at work for an agent, and return its process id."""
    return wait_until(lambda: workers_of(pid), "a worker")[0]


#: What a tiny agent does when it runs: it says who it is, and reports as it is told to.
TINY = """
import os, signal, sys
from pathlib import Path
if sys.argv[1] == "status":
    sys.exit({status})
folder = Path(os.environ["EDGEFLEET_SOFTWARE_FOLDER"])
print("{name}", flush=True)
if not folder.exists():
    sys.exit(0)
if "{does}" == "serves":
    (folder / "healthy").write_text(os.environ["EDGEFLEET_SOFTWARE"])
    signal.alarm(0)
elif "{does}" == "hangs":
    signal.pause()
elif "{does}" == "stops":
    (folder / "stopped").write_text(os.environ["EDGEFLEET_SOFTWARE"])
elif "{does}" == "crashes":
    sys.exit(1)
"""


def _script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def tiny_files(name, does="serves", status=0):
    """The files of an agent that can be started and does one thing."""
    empty = ("__init__", "cli", "field", "worker/__init__", "worker/main", "repositories/__init__", "repositories/main")
    files = {f"device_agent/{module}.py": "" for module in empty}
    return {**files, "device_agent/__main__.py": TINY.format(name=name, does=does, status=status)}


def wheel_set(folder, files, *, name="tiny", version="1.0.0", machine="any", python="any"):
    """A wheel set with one wheel of these files; its path and SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    wheel = folder / f"{name}-1-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path, text in files.items():
            archive.writestr(path, text)
    out = folder / f"{name}.wheels"
    _script("build_wheel_set").write_wheel_set([wheel], out, name=name, version=version, machine=machine, python=python)
    return out, hashlib.sha256(out.read_bytes()).hexdigest()


@pytest.fixture
def device_side(tmp_path):
    """A server's device side, running; its assignment is empty."""
    folder = tmp_path / "server"
    folder.mkdir()
    side = DeviceSide(folder)
    side.assign(None)
    yield side
    side.stop()


@pytest.fixture
def enrolled(device_side, tmp_path):
    """The data folder of an enrolled device."""
    from device_agent.adapters.identity.data_folder import DataFolder
    from device_agent.adapters.identity.enrolment import enrol

    folder = DataFolder(tmp_path / "device")
    enrol(device_side.ticket(), folder)
    return folder


@pytest.fixture(scope="session")
def agent_tools():
    """The helpers above, for tests (test modules do not import each other)."""
    return SimpleNamespace(
        quick_policy=quick_policy,
        wait_until=wait_until,
        limit_s=LIMIT_S,
        workers_of=workers_of,
        worker_of=worker_of,
        make_bundle=make_bundle,
        model_file=model_file,
        Repository=Repository,
        DEVICE=DEVICE,
        TENANT=TENANT,
        PROFILE=PROFILE,
        COMPAT=COMPAT,
        tiny_files=tiny_files,
        wheel_set=wheel_set,
    )


@pytest.fixture
def start(device):
    """Start the device's agent again as the launcher would have it: with this set running."""

    def make(running=SYSTEM, happened="", *, launcher=True):
        device.agent.stop()
        launched = {FOLDER_VARIABLE: "yes", SET_VARIABLE: running, SYSTEM_VARIABLE: __version__}
        environment = launched if launcher else {}
        device.software = OwnSoftware(device.folder.root, environment)
        device.start()
        device.agent.software.started(happened)

    return make


@pytest.fixture
def released(device_side, agent_tools, tmp_path):
    """Release a tiny agent's wheel set; returns its target and SHA-256."""

    def make(name="second", version="2.0.0", **facts):
        fit = {key: value for key, value in facts.items() if key in ("machine", "python")}
        files = facts.get("files") or agent_tools.tiny_files(name)
        path, sha256 = agent_tools.wheel_set(
            tmp_path / name, files, name="edgefleet-agent", version=version, **facts.get("said", fit)
        )
        return device_side.release_software(path, version, **fit), sha256

    return make


@pytest.fixture
def agent_process(enrolled):
    """Start real agents on the enrolled folder: ``start(*arguments)`` returns (process, ready line)."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> tuple[subprocess.Popen[str], dict[str, object]]:
        log = (enrolled.root / "agent.log").open("a")
        command = [sys.executable, "-m", "device_agent", "run", "--data", str(enrolled.root), *arguments]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        log.close()
        started.append(process)
        line = process.stdout.readline()
        assert line, (enrolled.root / "agent.log").read_text()
        return process, json.loads(line)

    yield start
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


class TickedDevice:
    """An agent in this process, ticked by the test; `ask` is an application."""

    def __init__(self, folder, tools, **settings):
        self.folder = folder
        self.tools = tools
        self.settings = AgentSettings(poll_s=0.05, telemetry_s=1000.0, compare_share=1.0, reserve_bytes=0, **settings)
        self.executor = ThreadPoolExecutor(2)
        self.admission = InProcessAdmission(busy=lambda: False)
        self.software = None
        self.start()

    def start(self):
        nonce = itertools.count(1)
        self.engine = Engine(random=lambda: 0.0, nonce=next(nonce))
        self.agent = assemble(
            self.folder,
            self.settings,
            inference=InProcessInference(self.engine),
            repositories=InProcessRepositories(self.folder, reserve_bytes=self.settings.reserve_bytes),
            admission=self.admission,
            executor=self.executor,
            software=self.software,
            random_share=lambda: 0.0,
        )
        self.agent.start()

    def ask(self, picture, model=""):
        reply = self.engine.infer([picture], model)
        self.engine.settle()
        return reply

    def until(self, condition, what, feed=()):
        pictures = itertools.cycle(feed) if len(feed) else None

        def step():
            if pictures is not None:
                picture = next(pictures)
                for name in {release.name for release in self.engine.running} or {""}:
                    self.ask(picture, name)
            self.agent.timers.sooner("collect", 0.0)
            self.agent.tick()
            return condition()

        return self.tools.wait_until(step, f"{what}; {self.agent.record}; {self.stories()}")

    def until_running(self, made, feed=()):
        self.until(
            lambda: (
                self.agent.status == "idle"
                and [member.release.version for member in self.agent.record.active] == [made.version]
            ),
            f"{made.version} is committed",
            feed,
        )

    def events(self):
        box = self.agent.ports.outbox
        return [message.body for message in box.after(0, 10_000) if isinstance(message.body, Event)]

    def stories(self):
        return [(event.kind, event.cause) for event in self.events()]

    def close(self):
        self.agent.stop()
        self.executor.shutdown()


@pytest.fixture
def device(enrolled, agent_tools):
    device = TickedDevice(enrolled, agent_tools)
    yield device
    device.close()


@pytest.fixture
def start_trust(enrolled, device_side):
    """Start the device's trust anew, as after a restart, with a clock of the test's."""

    def make(clock):
        files = {"ca": enrolled.ca, "certificate": enrolled.certificate, "key": enrolled.key}
        connection = ServerConnection(device_side.url, **files)
        return TufTrust(enrolled, enrolled.read_identity(), connection, clock=clock)

    return make


@pytest.fixture
def refusal():
    """Return with what cause and message a check is refused."""

    def of(trust, seen=0):
        with pytest.raises(TrustRefusedError) as raised:
            trust.check(seen)
        return raised.value.cause, raised.value.message

    return of


@pytest.fixture(scope="session")
def with_the_c_client(tmp_path_factory):
    """Compile a program of this folder together with the C client, every warning an error, with sanitizers."""

    def compiled(source):
        compiler = shutil.which("gcc") or shutil.which("clang")
        if compiler is None:
            pytest.skip("there is neither gcc nor clang")
        made = tmp_path_factory.mktemp("c") / "client"
        client = Path(__file__).parents[2] / "firmware" / "client"
        flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-g", "-O1", "-fsanitize=address,undefined"]
        sources = [Path(__file__).parent / source, client / "edgefleet_client.c"]
        subprocess.run([compiler, *flags, f"-I{client}", "-o", made, *sources], check=True)
        return made

    return compiled
