# SPDX-License-Identifier: Apache-2.0
"""A fleet's device side over real HTTPS: two signed TUF repositories and bundles, of which any file can be replaced."""

import datetime
import http.server
import ipaddress
import re
import ssl
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # as tuf
from tuf.api.metadata import (  # type: ignore[attr-defined]  # tuf re-exports without saying so
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.core.identity import Identity
from edgefleet.contracts.bundle import Bundle
from edgefleet.contracts.names import bundle_target_path
from edgefleet.contracts.policy import DevicePolicy, TrialRule
from edgefleet.contracts.tuf_custom import Assignment, ReleaseCustom, to_custom

TENANT, DEVICE, OTHER_DEVICE = "acme", "device-1", "device-2"
_DELEGATED = "production-digits"
_DAYS = 30
_POLICY = DevicePolicy(trial=TrialRule(requests=0, minimum_s=0.0))

Files = dict[str, bytes]


class Repository:
    """One TUF repository's keys; :meth:`files` signs a whole state. ``approvers`` of two sign for the product."""

    def __init__(self, prefix: str, *, delegated: bool) -> None:
        self.prefix = prefix
        self.signers = {role: CryptoSigner.generate_ed25519() for role in ("root", "targets", "snapshot", "timestamp")}
        self.approvers = [CryptoSigner.generate_ed25519() for _ in range(2)] if delegated else []
        root = Root(version=1, expires=expiry(), consistent_snapshot=True)
        for role, signer in self.signers.items():
            root.add_key(signer.public_key, role)
        self.root = signed(root, self.signers["root"])

    def files(self, version: int, targets: dict[str, TargetFile], fields: dict[str, object]) -> Files:
        """Return a signed state by the paths at which it is served."""
        top = Targets(version=version, expires=expiry(), targets={} if self.approvers else targets)
        top.unrecognized_fields.update(fields)
        made: Files = {}
        meta = {"targets.json": MetaFile(version=version)}
        if self.approvers:
            keys: dict[str, Key] = {each.public_key.keyid: each.public_key for each in self.approvers}
            role = DelegatedRole(_DELEGATED, list(keys), 2, terminating=True, paths=["digits/*/*"])
            top.delegations = Delegations(keys, {_DELEGATED: role})
            delegated = Targets(version=version, expires=expiry(), targets=targets)
            made[f"{version}.{_DELEGATED}.json"] = signed(delegated, *self.approvers)
            meta[f"{_DELEGATED}.json"] = MetaFile(version=version)
        snapshot = Snapshot(version=version, expires=expiry(), meta=meta)
        timestamp = Timestamp(version=version, expires=expiry(), snapshot_meta=MetaFile(version=version))
        made[f"{version}.targets.json"] = signed(top, self.signers["targets"])
        made[f"{version}.snapshot.json"] = signed(snapshot, self.signers["snapshot"])
        made["timestamp.json"] = signed(timestamp, self.signers["timestamp"])
        return {f"{self.prefix}{name}": data for name, data in made.items()}


class HostileSite:
    """Serves ``good`` files, and ``mutated`` ones in their place; use it as a context manager."""

    def __init__(self, folder: Path, bundles: list[Bundle]) -> None:
        self.folder = folder
        self.bundles = bundles
        self.image = Repository("/image/metadata/", delegated=True)
        self.director = Repository(f"/director/{DEVICE}/metadata/", delegated=False)
        self.other = Repository(f"/director/{OTHER_DEVICE}/metadata/", delegated=False)
        self.other.signers = self.director.signers
        self.targets = {target.path: target for target in (_target(bundle, _POLICY) for bundle in bundles)}
        self.content = {_file_path(bundle): bundle.path.read_bytes() for bundle in bundles}
        #: States that were served once, oldest first: replays come from here. The last one is in force.
        self.history = [self._state(version, bundles[version % 2]) for version in (1, 2, 3, 4)]
        self._version = 5
        self.history.append(self._state(self._version, bundles[0]))
        self.others = self._order(self.other, self._version, bundles[1], OTHER_DEVICE)
        self.good: Files = self.history[-1]
        self.mutated: Mapping[str, bytes] = {}
        self._authority = ec.generate_private_key(ec.SECP256R1())

    def __enter__(self) -> "HostileSite":
        site = self

        class Handler(_Handler):
            files = site

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"https://127.0.0.1:{self._server.server_address[1]}"
        self._server.socket = self._context().wrap_socket(
            self._server.socket, server_side=True, do_handshake_on_connect=False
        )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def find(self, path: str) -> bytes | None:
        """Return what is served at a path."""
        for files in (self.mutated, self.good, self.content):
            if path in files:
                return files[path]
        return None

    def order(self, bundle: Bundle, policy: DevicePolicy = _POLICY) -> None:
        """Release one bundle in the place of those before, and order it."""
        target = _target(bundle, policy)
        self.targets = {target.path: target}
        self.content = {_file_path(bundle): bundle.path.read_bytes()}
        self._version += 1
        self.good = self._state(self._version, bundle)

    def enrol(self, folder: DataFolder) -> None:
        """Give a device what enrolment gives it."""
        key = ec.generate_private_key(ec.SECP256R1())
        files = {
            folder.key: pem_of(key),
            folder.certificate: self._certificate(key, DEVICE),
            folder.ca: (self.folder / "ca.pem").read_bytes(),
            folder.root_metadata("image"): self.image.root,
            folder.root_metadata("director"): self.director.root,
        }
        for path, data in files.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        profile = self.bundles[0].manifest.profile.id
        folder.write_identity(Identity(server_url=self.url, tenant=TENANT, device=DEVICE, profile=profile))

    def _state(self, version: int, bundle: Bundle) -> Files:
        return self.image.files(version, self.targets, {}) | self._order(self.director, version, bundle, DEVICE)

    def _order(self, director: Repository, version: int, bundle: Bundle, device: str) -> Files:
        profile = bundle.manifest.profile.id
        order = Assignment(tenant=TENANT, device=device, profile=profile, counter=version)
        target = self.targets[_target_path(bundle)]
        bare = TargetFile(target.length, target.hashes, target.path)
        return director.files(version, {bare.path: bare}, to_custom(order))

    def _context(self) -> ssl.SSLContext:
        self.folder.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        (self.folder / "server.key").write_bytes(pem_of(key))
        (self.folder / "server.pem").write_bytes(self._certificate(key, "127.0.0.1"))
        (self.folder / "ca.pem").write_bytes(self._certificate(self._authority, "hostile site"))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.folder / "server.pem", self.folder / "server.key")
        return context

    def _certificate(self, key: ec.EllipticCurvePrivateKey, name: str) -> bytes:
        issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "hostile site")])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .issuer_name(issuer)
            .subject_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=_DAYS))
            .add_extension(x509.BasicConstraints(ca=key is self._authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        )
        return builder.sign(self._authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # an answer goes in one piece: no waiting for the other side to acknowledge its head
    files: HostileSite

    def do_GET(self) -> None:
        data = self.files.find(self.path)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        body = (data or b"")[int(asked[1]) if asked else 0 :]
        self.send_response(404 if data is None else 206 if asked else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """What counts is what the agent makes of it."""


def signed(content: Any, *signers: CryptoSigner) -> bytes:
    """Return a role's metadata with a signature of each signer."""
    metadata = Metadata(content)
    for signer in signers:
        metadata.sign(signer, append=True)
    data: bytes = metadata.to_bytes()
    return data


def pem_of(key: ec.EllipticCurvePrivateKey) -> bytes:
    """Return a private key as PEM."""
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, pkcs8, plain)


def expiry() -> datetime.datetime:
    """Return a moment well after the run."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(days=_DAYS)


def _target_path(bundle: Bundle) -> str:
    manifest = bundle.manifest
    return bundle_target_path(manifest.name, manifest.version, manifest.profile.id)


def _file_path(bundle: Bundle) -> str:
    folder, _, name = _target_path(bundle).rpartition("/")
    return f"/image/targets/{folder}/{bundle.sha256}.{name}"


def _target(bundle: Bundle, policy: DevicePolicy) -> TargetFile:
    manifest = bundle.manifest
    custom = ReleaseCustom(
        name=manifest.name,
        version=manifest.version,
        profile=manifest.profile.id,
        compat_hash=manifest.profile.compat_hash,
        policy_sha256="0" * 64,
        device_policy=policy,
    )
    fields = {"custom": to_custom(custom)}
    return TargetFile(bundle.size_bytes, {"sha256": bundle.sha256}, _target_path(bundle), fields)
