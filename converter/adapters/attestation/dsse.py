# SPDX-License-Identifier: Apache-2.0
"""Signed statements: DSSE envelopes by securesystemslib, with a key from a file. Nothing cryptographic is made here."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from edgefleet.contracts.errors import SettingError, TrustError, missing_extra
from edgefleet.contracts.files import read_file

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner as CryptoSigner  # type: ignore[attr-defined]
    from securesystemslib.signer import Key as Key  # type: ignore[attr-defined]

_KEY_HINT = "give a PEM file with an unencrypted private key (PKCS#8), such as 'edgefleet keys create' makes"
_PUBLIC_HINT = "give the NAME.pub.json of 'edgefleet keys create', or a PEM file with a public key"
_ENVELOPE_HINT = "take the bundle's own X.intoto.jsonl, as it was written beside it"


def load_signer(path: Path) -> "CryptoSigner":
    """Load a private key: Ed25519, ECDSA on P-256 or P-384, or RSA.

    Raises:
        MissingExtraError: securesystemslib or cryptography is not installed.
        FileMissingError: there is no such file.
        SettingError: it is no private key, is encrypted, or of a kind that cannot sign.
    """
    pem = read_file(path, "the private key")
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
        from securesystemslib.exceptions import Error
        from securesystemslib.signer import CryptoSigner  # type: ignore[attr-defined]  # re-exported without __all__
    except ImportError as error:
        raise missing_extra("converter", "signing evidence") from error
    try:
        return CryptoSigner(load_pem_private_key(pem, None))
    except TypeError as error:  # so pyca/cryptography says that a passphrase is missing
        raise SettingError(f"the private key '{path.name}' is encrypted", hint=_KEY_HINT) from error
    except (ValueError, Error, UnsupportedAlgorithm) as error:
        raise SettingError(f"'{path.name}' is no private key that can sign", hint=_KEY_HINT) from error


def load_public_key(path: Path) -> "Key":
    """Load a public key: a ``.pub.json`` as ``edgefleet keys create`` writes it, or PEM.

    Raises:
        MissingExtraError, FileMissingError, SettingError: as :func:`load_signer`.
    """
    data = read_file(path, "the public key")
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
        from securesystemslib.exceptions import Error
        from securesystemslib.signer import Key, SSlibKey  # type: ignore[attr-defined]  # re-exported without __all__
    except ImportError as error:
        raise missing_extra("converter", "verifying evidence") from error
    try:
        if data.startswith(b"-----BEGIN"):
            return SSlibKey.from_crypto(load_pem_public_key(data))
        document = msgspec.json.decode(data, type=dict[str, Any])
        return Key.from_dict(document.pop("keyid"), document)
    except (msgspec.MsgspecError, KeyError, ValueError, TypeError, Error, UnsupportedAlgorithm) as error:
        raise SettingError(f"'{path.name}' is no public key", hint=_PUBLIC_HINT) from error


def signed_envelope(payload: bytes, payload_type: str, signer: "CryptoSigner") -> "Envelope":
    """Return the payload in an envelope with one signature."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(payload, payload_type, {})
    envelope.sign(signer)
    return envelope


def envelope_line(envelope: "Envelope") -> bytes:
    """Return an envelope as one line of JSON, the form of ``X.intoto.jsonl``."""
    return msgspec.json.encode(envelope.to_dict()) + b"\n"


def verified_payload(line: bytes, payload_type: str, key: "Key") -> bytes:
    """Return the payload of an envelope that this key signed.

    Raises:
        TrustError: it is no envelope, of another type, or the key did not sign it.
    """
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import Error

    try:
        envelope = Envelope.from_dict(msgspec.json.decode(line, type=dict[str, Any]))
    except (msgspec.MsgspecError, KeyError, ValueError, TypeError, Error) as error:
        raise TrustError("the provenance is no DSSE envelope", hint=_ENVELOPE_HINT) from error
    if envelope.payload_type != payload_type:
        raise TrustError(
            f"the envelope holds '{envelope.payload_type}', expected '{payload_type}'", hint=_ENVELOPE_HINT
        )
    try:
        envelope.verify([key], 1)
    except Error as error:
        raise TrustError(
            f"the provenance is not signed by the key {key.keyid[:12]}…",
            hint="check which key signed it, and whether the file was changed",
        ) from error
    return envelope.payload
