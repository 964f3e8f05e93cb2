# SPDX-License-Identifier: Apache-2.0
"""Joining a fleet: a key made here, a request that proves it, and the roots of trust from the ticket."""

from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.identity.sealed_copy import copy_of, write_twice
from device_agent.adapters.network.https import ServerConnection
from device_agent.adapters.storage.durable import write_durably
from device_agent.adapters.system.hardware import facts_to_tell
from device_agent.core.identity import Identity
from device_agent.errors import storage_failed
from edgefleet.contracts.decoding import decode_json
from edgefleet.contracts.enrolment import (
    ENROL_PATH,
    EnrolmentAnswer,
    EnrolmentRequest,
    EnrolmentTicket,
)
from edgefleet.contracts.errors import (
    ConflictError,
    EdgeFleetError,
    InputError,
    NotAllowedError,
    UnreachableError,
)
from edgefleet.contracts.files import read_file, read_regular
from edgefleet.contracts.tuf_custom import DIRECTOR_REPOSITORY, IMAGE_REPOSITORY

#: What holds a private key is for its owner only.
PRIVATE_MODE = 0o600
_OK = (200, 201)
#: A ticket holds two roots of trust and a certificate.
_TICKET_LIMIT_BYTES = 1 << 20
_NOT_ALLOWED = (401, 403)


def read_ticket(path: Path) -> EnrolmentTicket:
    """Read an enrolment ticket.

    Raises:
        FileMissingError: there is none.
        SettingError: it breaks the schema.
    """
    hint = "make one on the server with: edgefleet devices invite NAME --profile P --output ticket.json"
    data = read_file(path, "the ticket", hint=hint, limit_bytes=_TICKET_LIMIT_BYTES)
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
        for left in (folder.next_key, folder.check_in, *map(copy_of, folder.single)):
            left.unlink(missing_ok=True)  # of an identity that was deleted
        write_twice(folder.ca, ticket.ca_pem.encode())
        key = own_key(folder.key)
        answer = _request(ticket, key, folder)
        identity = Identity(
            server_url=ticket.server_url,
            tenant=ticket.tenant,
            device=ticket.device,
            profile=ticket.profile,
            broker=answer.broker,
        )
        write_twice(folder.root_metadata(IMAGE_REPOSITORY), ticket.image_root.encode())
        write_twice(folder.root_metadata(DIRECTOR_REPOSITORY), ticket.director_root.encode())
        write_twice(folder.certificate, answer.certificate_pem.encode())
        folder.write_identity(identity)
    except OSError as error:
        raise storage_failed(f"enrol into '{folder.root}'", error) from error
    return identity


def certificate_request(key: ec.EllipticCurvePrivateKey, *, tenant: str, device: str) -> str:
    """Return the certificate request (PEM): CN is the device, O the tenant."""
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, device),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, tenant),
        ]
    )
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


def own_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the device's key, made and stored here if there is none."""
    if path.exists():
        return stored_key(path)
    key = ec.generate_private_key(ec.SECP256R1())
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_durably(path, pem, mode=PRIVATE_MODE)
    path.parent.chmod(0o700)
    return key


def stored_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return a key that lies here.

    Raises:
        InputError: it is damaged, or of another kind.
    """
    try:
        stored = serialization.load_pem_private_key(read_regular(path), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: the key is encrypted
        raise InputError(f"'{path}' holds no key that can be read", hint="delete it and enrol again") from error
    if not isinstance(stored, ec.EllipticCurvePrivateKey):
        raise InputError(f"'{path}' holds another kind of key than EC P-256", hint="delete it and enrol again")
    return stored


def _request(ticket: EnrolmentTicket, key: ec.EllipticCurvePrivateKey, folder: DataFolder) -> EnrolmentAnswer:
    request = EnrolmentRequest(
        device=ticket.device,
        token=ticket.token,
        csr_pem=certificate_request(key, tenant=ticket.tenant, device=ticket.device),
        facts=facts_to_tell().first(),
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
