# SPDX-License-Identifier: Apache-2.0
"""A server without a network: two real TUF repositories in a folder, and a connection that reads from it."""

import datetime
import io
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import urllib3
from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # as tuf
from tuf.api.metadata import (  # type: ignore[attr-defined]  # tuf re-exports without saying so
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from device_agent.adapters.network.https import ServerConnection
from edgefleet.contracts.bundle import Bundle, open_bundle
from edgefleet.contracts.names import bundle_target_path
from edgefleet.contracts.policy import DevicePolicy
from edgefleet.contracts.tuf_custom import Assignment, ReleaseCustom, to_custom

URL = "https://server.invalid"
_DAYS = 365
_OK, _PARTIAL, _MISSING, _RANGE = 200, 206, 404, 416


class Repository:
    """One TUF repository: a key for each role, and its files in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        self._version = 0
        self._signers = {role: CryptoSigner.generate_ed25519() for role in ("root", "targets", "snapshot", "timestamp")}
        root = Root(version=1, expires=_expiry(), consistent_snapshot=True)
        for role, signer in self._signers.items():
            root.add_key(signer.public_key, role)
        self.root = self._write("root", root, "1.root.json")

    def publish(self, targets: dict[str, TargetFile], fields: dict[str, Any]) -> None:
        """Sign and write new metadata that lists these targets."""
        self._version += 1
        version = self._version
        listed = Targets(version=version, expires=_expiry(), targets=targets, unrecognized_fields=fields)
        self._write("targets", listed, f"{version}.targets.json")
        meta = {"targets.json": MetaFile(version=version)}
        self._write("snapshot", Snapshot(version=version, expires=_expiry(), meta=meta), f"{version}.snapshot.json")
        timestamp = Timestamp(version=version, expires=_expiry(), snapshot_meta=MetaFile(version=version))
        self._write("timestamp", timestamp, "timestamp.json")

    def _write(self, role: str, signed: Any, name: str) -> bytes:
        metadata = Metadata(signed)
        metadata.sign(self._signers[role])
        data: bytes = metadata.to_bytes()
        (self._folder / name).write_bytes(data)
        return data


class ServerFolder:
    """Releases for one device, and the orders that it gets, one after the other."""

    def __init__(self, folder: Path, *, tenant: str, device: str, profile: str) -> None:
        self.folder = folder
        self._tenant, self._device, self._profile = tenant, device, profile
        self.image = Repository(folder / "image" / "metadata")
        self.director = Repository(folder / "director" / device / "metadata")
        self._targets: dict[str, TargetFile] = {}
        self._counter = 0

    def release(self, path: Path, policy: DevicePolicy) -> Bundle:
        """List a bundle in the image repository."""
        bundle = open_bundle(path)
        manifest, data = bundle.manifest, path.read_bytes()
        custom = ReleaseCustom(
            name=manifest.name,
            version=manifest.version,
            profile=manifest.profile.id,
            compat_hash=manifest.profile.compat_hash,
            policy_sha256="0" * 64,
            device_policy=policy,
        )
        name = bundle_target_path(manifest.name, manifest.version, manifest.profile.id)
        fields = {"custom": to_custom(custom)}
        self._targets[name] = TargetFile(len(data), {"sha256": bundle.sha256}, name, fields)
        where, _, last = name.rpartition("/")
        stored = self.folder / "image" / "targets" / where / f"{bundle.sha256}.{last}"
        stored.parent.mkdir(parents=True, exist_ok=True)
        stored.write_bytes(data)
        self.image.publish(self._targets, {})
        return bundle

    def order(self, bundle: Bundle) -> None:
        """Order the device to run a released bundle."""
        manifest = bundle.manifest
        name = bundle_target_path(manifest.name, manifest.version, manifest.profile.id)
        listed = self._targets[name]
        self._counter += 1
        assignment = Assignment(tenant=self._tenant, device=self._device, profile=self._profile, counter=self._counter)
        ordered = TargetFile(listed.length, listed.hashes, name)
        self.director.publish({name: ordered}, to_custom(assignment))


class FolderConnection(ServerConnection):
    """The device's own connection, which finds the server's answers in a folder; without one, nobody answers.

    It reads the device's certificates as the real one does.
    """

    def __init__(
        self, server: Path | None, *, ca: Path, certificate: Path | None = None, key: Path | None = None
    ) -> None:
        super().__init__(URL, ca=ca, certificate=certificate, key=key)
        self.server = server

    def _request(self, method: str, path: str, **settings: Any) -> urllib3.HTTPResponse:  # noqa: ARG002  it reads
        assert self._pool is not None  # noqa: S101  the certificates are good
        if self.server is None:
            raise urllib3.exceptions.HTTPError("nobody answers")
        file = self.server / unquote(path).lstrip("/")
        if not file.is_file():
            return _answer(_MISSING, b"")
        data = file.read_bytes()
        asked = re.fullmatch(r"bytes=(\d+)-", settings["headers"].get("Range", ""))
        if asked is None:
            return _answer(_OK, data)
        first = int(asked[1])
        return _answer(_PARTIAL, data[first:]) if first < len(data) else _answer(_RANGE, b"")


def _answer(status: int, body: bytes) -> urllib3.HTTPResponse:
    headers = {"Content-Length": str(len(body))}
    return urllib3.HTTPResponse(io.BytesIO(body), headers, status, preload_content=False)


def _expiry() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(days=_DAYS)
