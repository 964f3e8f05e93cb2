# SPDX-License-Identifier: Apache-2.0
"""Who this device is: the folder that enrolment fills, with a private key that never leaves it.

======================  =======================================================
``identity/key.pem``     the private key, mode 0600
``identity/next.pem``    the fresh key of a renewal that is under way
``identity/device.json`` names, server and broker (:class:`device_agent.core.identity.Identity`)
``identity/certificate.pem``, ``identity/ca.pem``   a renewed certificate has its key in the same file
``identity/check-in.json``  the last instance token, and what the server knows of this board
``trust/image.root.json``, ``trust/director.root.json``   the trusted roots
======================  =======================================================

What comes once has a second copy (:mod:`device_agent.adapters.identity.sealed_copy`).
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import msgspec

from device_agent.adapters.identity.credentials import device_key
from device_agent.adapters.identity.sealed_copy import mend, write_twice
from device_agent.core.identity import Identity
from edgefleet.contracts.decoding import decode_json
from edgefleet.contracts.errors import EdgeFleetError, FileMissingError, NotAllowedError
from edgefleet.contracts.files import read_regular
from edgefleet.contracts.tuf_custom import DIRECTOR_REPOSITORY, IMAGE_REPOSITORY

#: The end of the names of what was put aside.
_ASIDE = ".no-file"
_LOG = logging.getLogger("edgefleet.agent")


class DataFolder:
    """Where everything of one device lies."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.key = device_key(root / "identity" / "key.pem")
        self.certificate = root / "identity" / "certificate.pem"
        self.ca = root / "identity" / "ca.pem"
        self.next_key = root / "identity" / "next.pem"
        self.check_in = root / "identity" / "check-in.json"
        self.identity = root / "identity" / "device.json"
        self.trust = root / "trust"
        self.slots = root / "slots"
        self.downloads = root / "downloads"
        self.captures = root / "captures"
        self.holds = root / "holds"
        self.state = root / "state.db"
        self.outbox = root / "outbox.db"
        self.socket = root / "inference.sock"
        self.labels = root / "labels.json"
        self.lock = root / "agent.lock"

    def root_metadata(self, repository: str) -> Path:
        """Return where the trusted root of ``image`` or ``director`` lies, as the ticket brought it."""
        return self.trust / f"{repository}.root.json"

    def read_identity(self) -> Identity:
        """Return who this device is.

        Raises:
            FileMissingError: the device is not enrolled.
            NotAllowedError: this user may not look.
            SettingError: the file is damaged.
        """
        try:
            return decode_json(read_regular(self.identity), Identity, source=str(self.identity))
        except PermissionError as error:
            raise NotAllowedError(
                f"'{self.root}' may not be read by this user", hint="run it as root, or as the agent's user"
            ) from error
        except OSError as error:
            raise FileMissingError(
                f"'{self.root}' holds no enrolled device",
                hint=f"run: edgefleet-agent enrol --ticket ticket.json --data {self.root}",
            ) from error

    def write_identity(self, identity: Identity) -> None:
        """Write who this device is: the file says that the enrolment is complete.

        Raises:
            OSError: it cannot be written.
        """
        write_twice(self.identity, encode_identity(identity))

    @property
    def single(self) -> tuple[Path, ...]:
        """The files that came once, and have a second copy."""
        return tuple(self._single)

    @property
    def _single(self) -> dict[Path, Callable[[bytes], object]]:
        """How each of the files that came once is read; a reader raises ``ValueError`` or an error of ours."""
        roots = (self.root_metadata(repository) for repository in (IMAGE_REPOSITORY, DIRECTOR_REPOSITORY))
        certificates = dict.fromkeys((self.certificate, self.ca), _read_certificates)
        own: dict[Path, Callable[[bytes], object]] = {self.identity: _read_identity}
        return own | certificates | dict.fromkeys(roots, _read_root)

    def strange(self) -> list[Path]:
        """Return the pipes and devices that lie where files should be: whoever opens one may wait for ever."""
        folders = (self.root, self.identity.parent, self.trust, self.slots, self.downloads, self.captures, self.holds)
        entries = (path for folder in folders if folder.is_dir() for path in folder.iterdir() if path.suffix != _ASIDE)
        return [path for path in entries if path.is_fifo() or path.is_char_device() or path.is_block_device()]

    def mend(self) -> list[Path]:
        """Write the files again that the disk changed, and return them; what cannot be written stays as it is.

        What is no file is put aside first.
        """
        for path in self.strange():
            with suppress(OSError):
                path.rename(path.with_name(f"{path.name}{_ASIDE}"))
                _LOG.warning("'%s' was a device or a pipe, expected a file: it is put aside", path.name)
        mended = []
        for path, read in self._single.items():
            with suppress(OSError):
                if mend(path, partial(_is_usable, read)):
                    _LOG.warning("'%s' was damaged, and is written again from its copy", path.name)
                    mended.append(path)
        return mended


def key_of(certificate: Path, key: Path | None) -> Path | None:
    """Return where the private key of a certificate is: a renewed one has it in its own file.

    Raises:
        OSError: the certificate cannot be read.
    """
    return certificate if b"PRIVATE KEY" in read_regular(certificate) else key


def _is_usable(read: Callable[[bytes], object], data: bytes) -> bool:
    try:
        read(data)
    except (ValueError, EdgeFleetError):
        return False
    return True


def _read_identity(data: bytes) -> object:
    return decode_json(data, Identity, source="device.json")


def _read_certificates(data: bytes) -> object:
    from cryptography import x509

    return x509.load_pem_x509_certificates(data)


def _read_root(data: bytes) -> object:
    from tuf.api.exceptions import RepositoryError
    from tuf.api.metadata import Metadata, Root  # type: ignore[attr-defined]  # tuf re-exports without saying so

    try:
        root = Metadata[Root].from_bytes(data)
        root.signed.verify_delegate(Root.type, root.signed_bytes, root.signatures)
    except RepositoryError as error:
        raise ValueError(error) from error
    return root


def encode_identity(identity: Identity) -> bytes:
    """Return the identity file's bytes."""
    return msgspec.json.format(msgspec.json.encode(identity))
