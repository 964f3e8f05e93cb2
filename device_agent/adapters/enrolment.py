# SPDX-License-Identifier: Apache-2.0
"""Joining a fleet: a key made here, a request that proves it, and the roots of trust from the ticket."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from device_agent.adapters.durable import write_durably
from device_agent.adapters.https import ServerConnection
from device_agent.adapters.identity import DataFolder, encode_identity
from device_agent.core.identity import Identity
from device_agent.errors import storage_failed
from edgefleet.contracts.decoding import decode_json
from edgefleet.contracts.enrolment import (
    ENROL_PATH,
    EnrolmentAnswer,
    EnrolmentRequest,
    EnrolmentTicket,
    HardwareFacts,
)
from edgefleet.contracts.errors import (
    ConflictError,
    EdgeFleetError,
    InputError,
    NotAllowedError,
    UnreachableError,
)
from edgefleet.contracts.files import read_file
from edgefleet.contracts.tuf_custom import DIRECTOR_REPOSITORY, IMAGE_REPOSITORY

_PRIVATE = 0o600
_OK = (200, 201)
_NOT_ALLOWED = (401, 403)


def read_ticket(path: Path) -> EnrolmentTicket:
    """Read an enrolment ticket.

    Raises:
        FileMissingError: there is none.
        SettingError: it breaks the schema.
    """
    hint = "make one on the server with: edgefleet devices invite NAME --profile P --output ticket.json"
    data = read_file(path, "the ticket", hint=hint)
    return decode_json(data, EnrolmentTicket, source=f"the ticket '{path.name}'")


def enrol(ticket: EnrolmentTicket, folder: DataFolder) -> Identity:
    """Enrol this device; a key that an interrupted enrolment left is used again.

    Raises:
        ConflictError: the folder belongs to an enrolled device.
        NotAllowedError: the server refuses the ticket.
        UnreachableError: the server does not answer.
        StorageError: the folder cannot be written.
        InputError: the key that is there is damaged, or of another kind.
    """
    if folder.identity.exists():
        raise ConflictError(
            f"'{folder.root}' holds an enrolled device already", hint="choose another folder, or delete this one"
        )
    try:
        write_durably(folder.ca, ticket.ca_pem.encode())
        key = _own_key(folder.key)
        answer = _request(ticket, key, folder)
        identity = Identity(
            server_url=ticket.server_url,
            tenant=ticket.tenant,
            device=ticket.device,
            profile=ticket.profile,
            broker=answer.broker,
        )
        write_durably(folder.root_metadata(IMAGE_REPOSITORY), ticket.image_root.encode())
        write_durably(folder.root_metadata(DIRECTOR_REPOSITORY), ticket.director_root.encode())
        write_durably(folder.certificate, answer.certificate_pem.encode())
        write_durably(folder.identity, encode_identity(identity))
    except OSError as error:
        raise storage_failed(f"enrol into '{folder.root}'", error) from error
    return identity


def certificate_request(key: ec.EllipticCurvePrivateKey, ticket: EnrolmentTicket) -> str:
    """Return the certificate request (PEM): CN is the device, O the tenant."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, ticket.device),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, ticket.tenant),
        ]
    )
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def hardware_facts() -> HardwareFacts:
    """Observe this board."""
    try:
        runtime = f"ai-edge-litert {version('ai-edge-litert')}"
    except PackageNotFoundError:
        runtime = "none"
    return HardwareFacts(
        architecture=platform.machine(),
        kernel=platform.release(),
        cpu_count=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        python=platform.python_version(),
        runtime=runtime,
    )


def _own_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the device's key, made and stored here if there is none."""
    if path.exists():
        return _stored_key(path)
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_durably(path, pem, mode=_PRIVATE)
    path.parent.chmod(0o700)
    return key


def _stored_key(path: Path) -> ec.EllipticCurvePrivateKey:
    try:
        stored = serialization.load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: the key is encrypted
        raise InputError(f"'{path}' holds no key that can be read", hint="delete it and enrol again") from error
    if not isinstance(stored, ec.EllipticCurvePrivateKey):
        raise InputError(f"'{path}' holds another kind of key than EC P-256", hint="delete it and enrol again")
    return stored


def _request(ticket: EnrolmentTicket, key: ec.EllipticCurvePrivateKey, folder: DataFolder) -> EnrolmentAnswer:
    request = EnrolmentRequest(
        device=ticket.device, token=ticket.token, csr_pem=certificate_request(key, ticket), facts=hardware_facts()
    )
    connection = ServerConnection(ticket.server_url, ca=folder.ca)
    try:
        status, body = connection.post_json(ENROL_PATH, msgspec.json.encode(request))
    except UnreachableError as error:
        raise UnreachableError(
            error.message, hint="check the network and the server, then enrol again; the ticket still holds"
        ) from error
    finally:
        connection.close()
    if status not in _OK:
        raise _refused(status, body)
    return decode_json(body, EnrolmentAnswer, source="the server's answer to the enrolment")


def _refused(status: int, body: bytes) -> EdgeFleetError:
    try:
        said = str(msgspec.json.decode(body)["detail"])[:300]
    except (msgspec.DecodeError, KeyError, TypeError):
        said = f"status {status}"
    if status in _NOT_ALLOWED:
        return NotAllowedError(
            f"the server refuses this enrolment: {said}", hint="a ticket works once: ask for a new one"
        )
    return UnreachableError(f"the server failed to enrol this device: {said}", hint="try again; the ticket still holds")
