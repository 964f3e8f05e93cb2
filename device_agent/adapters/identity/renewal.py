# SPDX-License-Identifier: Apache-2.0
"""Renewing the device's certificate: a fresh key, a proof by the key of before, and one rename that swaps both.

A power cut at any point leaves a pair that holds:

1. The fresh key is on the disk before it is asked for, and is asked for again by the next attempt.
2. The server goes by the present certificate until the next one is first used.
3. The next certificate is written with its key in one file, over the present one, by rename.
4. Then ``key.pem`` follows, which only an older agent reads; where that was cut off, the next round makes up for it.

A key that the service manager keeps sealed cannot be replaced from here: its certificate is renewed for the same key.
"""

from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from device_agent.adapters.identity.data_folder import DataFolder, key_of
from device_agent.adapters.identity.enrolment import PRIVATE_MODE, certificate_request, own_key, stored_key
from device_agent.adapters.identity.sealed_copy import write_twice
from device_agent.adapters.network.https import ServerConnection
from device_agent.adapters.storage.durable import sync_folder, write_durably
from device_agent.adapters.verification.trust_memory_file import known_time
from device_agent.core.identity import Identity
from device_agent.core.orders.renewal import CertificateLife
from device_agent.errors import RenewalRefusedError, storage_failed
from edgefleet.contracts.decoding import decode_json
from edgefleet.contracts.enrolment import (
    RENEW_PATH,
    RENEWAL_PURPOSE,
    RenewalAnswer,
    RenewalRequest,
    SignedRenewal,
)
from edgefleet.contracts.errors import FileMissingError, InputError, UnreachableError
from edgefleet.contracts.files import read_regular

_OK, _NOT_FOUND, _REFUSED = 200, 404, (400, 403, 422)


def read_life(folder: DataFolder) -> CertificateLife:
    """Return from when to when the device's certificate holds.

    Raises:
        FileMissingError: there is none.
        InputError: it cannot be read.
    """
    certificate = _certificate(folder)
    return CertificateLife(
        certificate.not_valid_before_utc.timestamp(),
        certificate.not_valid_after_utc.timestamp(),
        certificate.serial_number,
    )


def renew(folder: DataFolder, identity: Identity, *, lapsed: bool) -> CertificateLife:
    """Get the next certificate and put it in force; ``lapsed``: the present one opens no connection any more.

    Raises:
        RenewalRefusedError: the server says no, with its cause.
        UnreachableError: the server does not answer, or knows no renewal.
        StorageError: the pair cannot be written; the present one holds.
        FileMissingError, InputError: the present pair cannot be used.
    """
    try:
        sealed = folder.key.parent != folder.certificate.parent
        key = stored_key(folder.key) if sealed else own_key(folder.next_key)
        body = msgspec.json.encode(_signed(folder, identity, key))
        certificate = _ask(folder, identity, body, lapsed=lapsed)
        _check(certificate, key)
        _put_in_force(folder, certificate, None if sealed else key)
    except OSError as error:
        raise storage_failed("renew the device's certificate", error) from error
    return read_life(folder)


def make_up(folder: DataFolder) -> None:
    """Let ``key.pem`` follow a renewed certificate, where a power cut came between (step 4).

    Raises:
        StorageError: it cannot be written.
    """
    try:
        data = read_regular(folder.certificate)
        key = data[data.find(b"-----BEGIN PRIVATE KEY-----") :] if b"PRIVATE KEY" in data else b""
        if key and folder.key.parent == folder.certificate.parent:
            if not folder.key.exists() or read_regular(folder.key) != key:
                write_durably(folder.key, key, mode=PRIVATE_MODE)
            if folder.next_key.exists() and read_regular(folder.next_key) == key:
                folder.next_key.unlink()
    except OSError as error:
        raise storage_failed("complete a renewal", error) from error


def _signed(folder: DataFolder, identity: Identity, fresh: ec.EllipticCurvePrivateKey) -> SignedRenewal:
    request = RenewalRequest(
        tenant=identity.tenant,
        device=identity.device,
        certificate_pem=_certificate(folder).public_bytes(serialization.Encoding.PEM).decode(),
        csr_pem=certificate_request(fresh, tenant=identity.tenant, device=identity.device),
    )
    text = msgspec.json.encode(request)
    present = stored_key(key_of(folder.certificate, folder.key) or folder.key)
    signature = present.sign(RENEWAL_PURPOSE + text, ec.ECDSA(hashes.SHA256()))
    return SignedRenewal(request=text.decode(), signature=signature.hex())


def _ask(folder: DataFolder, identity: Identity, body: bytes, *, lapsed: bool) -> bytes:
    """Return the next certificate; a server whose clock says that the present one lapsed is asked without it."""
    if not lapsed:
        try:
            return _post(identity, body, folder, certificate=folder.certificate, key=folder.key)
        except UnreachableError:
            return _post(identity, body, folder)
    return _post(identity, body, folder)


def _post(identity: Identity, body: bytes, folder: DataFolder, **own: Path) -> bytes:
    connection = ServerConnection(identity.server_url, ca=folder.ca, bound=known_time(folder.trust), **own)
    try:
        status, answer = connection.post_json(RENEW_PATH, body)
    finally:
        connection.close()
    if status == _OK:
        source = "the server's answer to the renewal"
        return decode_json(answer, RenewalAnswer, source=source).certificate_pem.encode()
    if status in _REFUSED:
        raise _refused(answer, status)
    raise UnreachableError(
        "the server knows no renewal" if status == _NOT_FOUND else f"the server failed to renew: status {status}",
        hint="update the server; the agent tries again by itself",
    )


def _refused(body: bytes, status: int) -> RenewalRefusedError:
    try:
        problem = msgspec.json.decode(body, type=dict[str, object])
    except msgspec.DecodeError:
        problem = {}
    said = str(problem.get("detail", f"status {status}"))[:300]
    return RenewalRefusedError(
        str(problem.get("code", "refused"))[:60],
        f"the server refuses to renew the certificate: {said}",
        hint=str(problem.get("hint", "enrol the device again"))[:300],
    )


def _check(certificate_pem: bytes, key: ec.EllipticCurvePrivateKey) -> None:
    """Refuse a certificate for another key: put in force, it would shut the device out."""
    try:
        found = x509.load_pem_x509_certificate(certificate_pem).public_key()
    except ValueError as error:
        raise InputError(f"the server sent no certificate: {error}", hint="check the server's log") from error
    if found != key.public_key():
        raise InputError("the server sent a certificate for another key", hint="check the server's log")


def _put_in_force(folder: DataFolder, certificate_pem: bytes, key: ec.EllipticCurvePrivateKey | None) -> None:
    if key is None:
        write_twice(folder.certificate, certificate_pem)
        return
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_twice(folder.certificate, certificate_pem + pem)
    write_durably(folder.key, pem, mode=PRIVATE_MODE)
    folder.next_key.unlink(missing_ok=True)
    sync_folder(folder.next_key.parent)


def _certificate(folder: DataFolder) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(read_regular(folder.certificate))
    except OSError as error:
        raise FileMissingError("the device's certificate is missing", hint="enrol the device again") from error
    except ValueError as error:
        raise InputError(f"the device's certificate is damaged: {error}", hint="enrol the device again") from error
