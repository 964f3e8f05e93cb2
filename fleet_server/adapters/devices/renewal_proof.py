# SPDX-License-Identifier: Apache-2.0
"""Whether a renewal proves what it claims: that its sender has the key of a certificate of this tenant's authority.

Signer and web process both look; each believes its own eyes. When the certificate lapsed is no question here.
"""

from dataclasses import dataclass

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.enrolment import RENEWAL_PURPOSE, RenewalRequest, SignedRenewal
from edgefleet.contracts.errors import PossessionError, RefusedError
from fleet_server.adapters.keys.certificates import requested_key

_HINT = "let the agent renew by itself, or enrol the device again"


@dataclass(frozen=True)
class ProvedRenewal:
    """A renewal whose sender has the key; times are Unix seconds, ``key_sha256`` names the key that is certified."""

    device: str
    serial: str
    csr_pem: str
    key_sha256: str
    ends_at: float


def read_proof(proof: SignedRenewal, *, tenant: str, authority_pem: bytes) -> ProvedRenewal:
    """Return what a renewal asks for.

    Raises:
        RefusedError: request or certificate is malformed, or the key is no P-256 key.
        PossessionError: the certificate is of another authority, tenant or device, or did not sign the request.
        NotAllowedError: the certificate request is for another device, or not signed by its own key.
    """
    try:
        request = msgspec.json.decode(proof.request, type=RenewalRequest)
        certificate = x509.load_pem_x509_certificate(request.certificate_pem.encode())
        signature = bytes.fromhex(proof.signature)
    except ValueError as error:  # msgspec's errors are such too
        raise RefusedError(f"the renewal is malformed: {error}", hint=_HINT) from error
    key = _owner(certificate, request, tenant, authority_pem)
    try:
        key.verify(signature, RENEWAL_PURPOSE + proof.request.encode(), ec.ECDSA(hashes.SHA256()))
    except InvalidSignature as error:
        raise PossessionError(
            f"the renewal of '{request.device}' is not signed by the key of the certificate that it shows", hint=_HINT
        ) from error
    fresh = requested_key(request.device, request.csr_pem)
    return ProvedRenewal(
        device=request.device,
        serial=f"{certificate.serial_number:x}",
        csr_pem=request.csr_pem,
        key_sha256=sha256_hex(_raw(fresh)),
        ends_at=certificate.not_valid_after_utc.timestamp(),
    )


def _owner(
    certificate: x509.Certificate, request: RenewalRequest, tenant: str, authority_pem: bytes
) -> ec.EllipticCurvePublicKey:
    """Return the key of a device's certificate that this authority issued, whatever the time is."""
    try:
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority_pem))
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, TypeError, InvalidSignature, x509.ExtensionNotFound) as error:
        raise PossessionError(
            "the renewal shows a certificate of another authority than this fleet's", hint=_HINT
        ) from error
    key = certificate.public_key()
    names = [_name(certificate, oid) for oid in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME)]
    ours = names == [tenant, request.device] and request.tenant == tenant
    if not ours or ExtendedKeyUsageOID.CLIENT_AUTH not in usages or not isinstance(key, ec.EllipticCurvePublicKey):
        raise PossessionError(
            f"the renewal shows a certificate of '{names[1]}' of '{names[0]}', "
            f"expected '{request.device}' of '{tenant}'",
            hint=_HINT,
        )
    return key


def _name(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> str:
    found = certificate.subject.get_attributes_for_oid(oid)
    return str(found[0].value)[:100] if len(found) == 1 else ""


def _raw(key: ec.EllipticCurvePublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
