# SPDX-License-Identifier: Apache-2.0
"""A signature over a bundle that the OpenSSF's ``model_signing`` (1.x) verifies with its ``verify key`` command.

The format: a Sigstore bundle (v0.3) around a DSSE envelope of an in-toto statement; its subject is the hash over the
hashes of all files, here of one. That tool takes keys on P-256 and P-384 only.
"""

import hashlib
from typing import TYPE_CHECKING

import msgspec

from converter.adapters.attestation.dsse import signed_envelope
from converter.core.reports.provenance import PAYLOAD_TYPE, STATEMENT_TYPE
from edgefleet.contracts.canonical import canonical_json

if TYPE_CHECKING:
    from converter.adapters.attestation.dsse import CryptoSigner

_PREDICATE_TYPE = "https://model_signing/signature/v1.0"
_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_SCHEMES = frozenset({"ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384"})
#: How the tool calls the only file where the model is no folder.
_ONLY_FILE = "."


def can_export(signer: "CryptoSigner") -> bool:
    """Tell whether ``model_signing`` takes signatures of this kind of key."""
    return signer.public_key.scheme in _SCHEMES


def model_signature(file_name: str, bundle_sha256: str, signer: "CryptoSigner") -> bytes:
    """Return ``X.model.sig`` for a bundle: verify it with ``model_signing verify key``, the public key as PEM."""
    file_digest = bytes.fromhex(bundle_sha256)
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": file_name, "digest": {"sha256": hashlib.sha256(file_digest).hexdigest()}}],
        "predicateType": _PREDICATE_TYPE,
        "predicate": {
            "serialization": {"method": "files", "hash_type": "sha256", "allow_symlinks": False},
            "resources": [{"name": _ONLY_FILE, "algorithm": "sha256", "digest": bundle_sha256}],
        },
    }
    envelope = signed_envelope(canonical_json(statement), PAYLOAD_TYPE, signer).to_dict()
    for signature in envelope["signatures"]:
        signature["keyid"] = ""  # the key is named by the hint below
    document = {
        "mediaType": _MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": _key_hint(signer)}, "tlogEntries": []},
        "dsseEnvelope": envelope,
    }
    return msgspec.json.encode(document) + b"\n"


def _key_hint(signer: "CryptoSigner") -> str:
    """Return the SHA-256 of the public key's PEM, which is what the tool compares with."""
    pem = str(signer.public_key.keyval["public"])
    return hashlib.sha256(pem.strip().encode() + b"\n").hexdigest()
