# SPDX-License-Identifier: Apache-2.0
"""The server's folder: where what lies, and the lock that keeps a second server out.

::

    DIR/server.json          tenant and host names
    DIR/fleet.db             all state
    DIR/staging/             uploaded bundles, by hash
    DIR/targets/             published files, by target path with the hash before the name
    DIR/captures/            inputs that devices captured, where the server takes any
    DIR/tls/                 the listener's certificate and key, both authorities, the broker's and the server's at it
    DIR/signer/              the signer's keys and log (0700): only the signer process reads them
    DIR/listening.json       the addresses of the running server
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edgefleet.contracts.decoding import decode_json
from edgefleet.contracts.errors import ConflictError, FileMissingError
from edgefleet.contracts.files import read_file
from edgefleet.contracts.manifest import Fact
from fleet_server.adapters.telemetry.mqtt_link import BrokerTls


class ServerSettings(Fact, frozen=True, kw_only=True):
    """What ``server init`` fixed."""

    tenant: str
    hosts: tuple[str, ...]


class Listening(Fact, frozen=True, kw_only=True):
    """Where a running server listens; also the line that it prints when it is ready."""

    api: str
    device: str


class DataFolder:
    """The paths of one server."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.settings_path = path / "server.json"
        self.database_path = path / "fleet.db"
        self.staging = path / "staging"
        self.targets = path / "targets"
        self.captures = path / "captures"
        self.tls = path / "tls"
        self.signer = path / "signer"
        self.listening_path = path / "listening.json"

    def settings(self) -> ServerSettings:
        """Return what ``server init`` fixed.

        Raises:
            FileMissingError: the folder was not initialised.
        """
        if not self.settings_path.exists():
            raise FileMissingError(
                f"'{self.path}' is no server's folder", hint="make it: edgefleet server init --data DIR --tenant NAME"
            )
        data = read_file(self.settings_path, "the server's settings")
        return decode_json(data, ServerSettings, source=str(self.settings_path))

    def authority_pem(self) -> str:
        """Return the certificate of the authority that signed the listener's certificate."""
        return read_file(self.tls / "server-authority.crt", "the server's authority").decode()

    def device_authority_pem(self) -> bytes:
        """Return the certificate of the authority that signs the devices' certificates."""
        return read_file(self.tls / "device-authority.crt", "the devices' authority")

    def broker_tls(self) -> BrokerTls:
        """Return the files for a TLS connection to the broker."""
        return BrokerTls(
            str(self.tls / "server-authority.crt"),
            str(self.tls / "broker-client.crt"),
            str(self.tls / "broker-client.key"),
        )

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for this process.

        Raises:
            ConflictError: a server, or a command that changes the folder, has it.
        """
        self.settings()
        with (self.path / "lock").open("w") as stream:
            os.fchmod(stream.fileno(), 0o600)
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConflictError(
                    f"a server runs on '{self.path}' already", hint="stop it first, or use another folder"
                ) from None
            yield
