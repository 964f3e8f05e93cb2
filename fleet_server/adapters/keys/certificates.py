# SPDX-License-Identifier: Apache-2.0
"""X.509 certificates (EC P-256): one authority for the server's listeners, another one for devices.

They are separate, so that no device certificate can stand for the server even where a client forgets to look at
the extended key usage.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgefleet.contracts.errors import NotAllowedError, RefusedError

_AUTHORITY_LIFETIME = timedelta(days=3650)
_LEAF_LIFETIME = timedelta(days=825)
#: How long a device's certificate holds, where ``server init`` said nothing else.
DEVICE_CERTIFICATE_DAYS = 825.0
_CLOCK_SKEW = timedelta(minutes=10)


@dataclass(frozen=True)
class KeyedCertificate:
    """A certificate and its private key, as PEM."""

    certificate_pem: bytes
    key_pem: bytes


def create_authority(tenant: str, purpose: str) -> KeyedCertificate:
    """Make a certificate authority that may sign leaves only."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(f"EdgeFleet {purpose} authority", tenant)
    certificate = (
        _builder(name, name, key.public_key(), _AUTHORITY_LIFETIME)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyedCertificate(_certificate_pem(certificate), _key_pem(key))


def issue_server(authority: KeyedCertificate, tenant: str, hosts: Sequence[str]) -> KeyedCertificate:
    """Issue the certificate of a TLS listener; ``hosts`` are names or IP addresses."""
    names = [_general_name(host) for host in hosts]
    extension = x509.SubjectAlternativeName(names)
    return _issue_keyed(authority, _name(hosts[0], tenant), ExtendedKeyUsageOID.SERVER_AUTH, extension)


def issue_client(authority: KeyedCertificate, tenant: str, common_name: str) -> KeyedCertificate:
    """Issue a client certificate with a key made here (for the server's own connection to the broker)."""
    return _issue_keyed(authority, _name(common_name, tenant), ExtendedKeyUsageOID.CLIENT_AUTH, None)


def issue_device(
    authority: KeyedCertificate, tenant: str, device: str, csr_pem: str, *, days: float = DEVICE_CERTIFICATE_DAYS
) -> str:
    """Issue a device's certificate (CN the device, O the tenant) for the key of its request.

    Raises:
        RefusedError: the request is malformed, or its key is no P-256 key.
        NotAllowedError: the request's subject is another device, or it is not signed by its own key.
    """
    key = requested_key(device, csr_pem)
    usage = ExtendedKeyUsageOID.CLIENT_AUTH
    certificate = _issue(authority, _name(device, tenant), key, usage, None, timedelta(days=days))
    return _certificate_pem(certificate).decode()


def requested_key(device: str, csr_pem: str) -> ec.EllipticCurvePublicKey:
    """Return the key that a device's certificate request is for; raises as :func:`issue_device`."""
    try:
        request = x509.load_pem_x509_csr(csr_pem.encode())
        signed = request.is_signature_valid
    except Exception as error:  # cryptography raises many kinds of errors on hostile input
        raise RefusedError(
            f"the certificate request is malformed: {error}", hint="send a PKCS#10 request as PEM"
        ) from error
    subjects = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if not signed or len(subjects) != 1 or subjects[0].value != device:
        raise NotAllowedError(
            f"the certificate request does not speak for '{device}'", hint="enrol with the ticket of this very device"
        )
    key = request.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise RefusedError("the device's key is no P-256 key", hint="make an EC P-256 key")
    return key


def serial_of(certificate: bytes) -> str:
    """Return a certificate's serial number in hexadecimal; PEM or DER."""
    load = x509.load_pem_x509_certificate if certificate.startswith(b"-----") else x509.load_der_x509_certificate
    return f"{load(certificate).serial_number:x}"


def end_of(certificate_pem: bytes) -> float:
    """Return when a certificate lapses, in Unix seconds."""
    return x509.load_pem_x509_certificate(certificate_pem).not_valid_after_utc.timestamp()


@dataclass(frozen=True)
class PeerIdentity:
    """Who a client certificate speaks for; the TLS layer has verified it."""

    device: str
    tenant: str
    serial: str


def read_peer(der: bytes) -> PeerIdentity:
    """Read the device, tenant and serial number out of a verified client certificate."""
    certificate = x509.load_der_x509_certificate(der)

    def attribute(oid: x509.ObjectIdentifier) -> str:
        found = certificate.subject.get_attributes_for_oid(oid)
        return str(found[0].value) if len(found) == 1 else ""

    return PeerIdentity(
        attribute(NameOID.COMMON_NAME), attribute(NameOID.ORGANIZATION_NAME), f"{certificate.serial_number:x}"
    )


def _issue_keyed(
    authority: KeyedCertificate,
    subject: x509.Name,
    usage: x509.ObjectIdentifier,
    names: x509.SubjectAlternativeName | None,
) -> KeyedCertificate:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _issue(authority, subject, key.public_key(), usage, names)
    return KeyedCertificate(_certificate_pem(certificate), _key_pem(key))


def _issue(
    authority: KeyedCertificate,
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    usage: x509.ObjectIdentifier,
    names: x509.SubjectAlternativeName | None,
    lifetime: timedelta = _LEAF_LIFETIME,
) -> x509.Certificate:
    issuer = x509.load_pem_x509_certificate(authority.certificate_pem)
    issuer_key = load_pem_private_key(authority.key_pem, None)
    assert isinstance(issuer_key, ec.EllipticCurvePrivateKey)  # noqa: S101 - made by create_authority
    issuer_id = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    builder = (
        _builder(subject, issuer.subject, key, lifetime)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(issuer_id), critical=False)
    )
    if names is not None:
        builder = builder.add_extension(names, critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, lifetime: timedelta
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + lifetime)
    )


def _name(common_name: str, tenant: str) -> x509.Name:
    return x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, common_name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, tenant)]
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
