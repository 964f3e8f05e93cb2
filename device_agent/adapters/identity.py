# SPDX-License-Identifier: Apache-2.0
"""Who this device is: the folder that enrolment fills, with a private key that never leaves it.

======================  =======================================================
``identity/key.pem``     the private key, mode 0600
``identity/device.json`` names, server and broker (:class:`device_agent.core.identity.Identity`)
``identity/certificate.pem``, ``identity/ca.pem``
``trust/image.root.json``, ``trust/director.root.json``   the trusted roots
======================  =======================================================
"""

from pathlib import Path

import msgspec

from device_agent.core.identity import Identity
from edgefleet.contracts.decoding import decode_json
from edgefleet.contracts.errors import FileMissingError


class DataFolder:
    """Where everything of one device lies."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.key = root / "identity" / "key.pem"
        self.certificate = root / "identity" / "certificate.pem"
        self.ca = root / "identity" / "ca.pem"
        self.identity = root / "identity" / "device.json"
        self.trust = root / "trust"
        self.slots = root / "slots"
        self.downloads = root / "downloads"
        self.state = root / "state.db"
        self.outbox = root / "outbox.db"
        self.socket = root / "inference.sock"
        self.lock = root / "agent.lock"

    def root_metadata(self, repository: str) -> Path:
        """Return where the trusted root of ``image`` or ``director`` lies, as the ticket brought it."""
        return self.trust / f"{repository}.root.json"

    def read_identity(self) -> Identity:
        """Return who this device is.

        Raises:
            FileMissingError: the device is not enrolled.
            SettingError: the file is damaged.
        """
        try:
            data = self.identity.read_bytes()
        except OSError as error:
            raise FileMissingError(
                f"'{self.root}' holds no enrolled device",
                hint=f"run: edgefleet-agent enrol --ticket ticket.json --data {self.root}",
            ) from error
        return decode_json(data, Identity, source=str(self.identity))


def encode_identity(identity: Identity) -> bytes:
    """Return the identity file's bytes."""
    return msgspec.json.format(msgspec.json.encode(identity))
