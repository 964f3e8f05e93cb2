# SPDX-License-Identifier: Apache-2.0
"""Keys in files, reached through securesystemslib signer URIs: ``file:/PATH`` or ``file:/PATH?encrypted=true``.

securesystemslib's own ``file2:`` scheme reads no encrypted files; everything cryptographic is pyca/cryptography's.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib import parse

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from securesystemslib.formats import encode_canonical

from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.errors import FileMissingError, NotAllowedError, SettingError, StorageError
from edgefleet.contracts.files import read_file
from fleet_server.adapters.storage.private_files import write_file, write_secret
from fleet_server.core.trust.tuf_types import SIGNER_FOR_URI_SCHEME, CryptoSigner, Key, Signature, Signer, SSlibKey

SCHEME = "file"


class PemFileSigner(CryptoSigner):
    """Signs with a PKCS#8 PEM file; ``?encrypted=true`` asks the secrets handler for its passphrase."""

    @classmethod
    def from_priv_key_uri(
        cls, priv_key_uri: str, public_key: Key, secrets_handler: Callable[[str], str] | None = None
    ) -> CryptoSigner:
        """Load the key; see :meth:`securesystemslib.signer.Signer.from_priv_key_uri`."""
        uri = parse.urlparse(priv_key_uri)
        passphrase = None
        if parse.parse_qs(uri.query).get("encrypted") == ["true"]:
            if secrets_handler is None:
                raise ValueError("the key is encrypted, and no passphrase is at hand")
            passphrase = secrets_handler("passphrase").encode()
        pem = Path(parse.unquote(uri.path)).read_bytes()
        if not isinstance(public_key, SSlibKey):
            raise TypeError("expected an SSlibKey")
        return CryptoSigner(load_pem_private_key(pem, passphrase), public_key)


SIGNER_FOR_URI_SCHEME[SCHEME] = PemFileSigner


def create_key(folder: Path, name: str, passphrase: bytes | None = None) -> CryptoSigner:
    """Make an Ed25519 key: ``NAME.pem`` (0600, encrypted where a passphrase is given) and ``NAME.pub.json``.

    Raises:
        ConflictError: a key of that name exists.
        StorageError: it cannot be written; nothing is left behind.
    """
    private = Ed25519PrivateKey.generate()
    encryption: KeySerializationEncryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    signer = CryptoSigner(private)
    pem = folder / f"{name}.pem"
    write_secret(pem, private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    try:
        write_file(folder / f"{name}.pub.json", encode_public_key(signer.public_key))
    except StorageError:
        pem.unlink()  # half a key would only stand in the way of the next attempt
        raise
    return signer


def encode_public_key(key: Key) -> bytes:
    """Return a public key as TUF's key object, with its ``keyid`` beside."""
    document: dict[str, Any] = {"keyid": key.keyid, **key.to_dict()}
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def read_public_key(path: Path) -> Key:
    """Read ``NAME.pub.json``.

    Its key id must be the key's own: under two ids one person could be two approvers.

    Raises:
        FileMissingError: there is no such file.
        SettingError: it is no public key, or says another key id than its own.
    """
    data = read_file(path, "the public key")
    try:
        document = msgspec.json.decode(data, type=dict[str, Any])
        key = Key.from_dict(document.pop("keyid"), document)
        _check_usable(key)
    except (msgspec.MsgspecError, KeyError, ValueError, TypeError) as error:
        raise SettingError(
            f"'{path}' is not a public key file: {error!r}", hint="use the NAME.pub.json of 'edgefleet keys create'"
        ) from error
    return key


def _check_usable(key: Key) -> None:
    """Raise ValueError for a key whose id is not its own, or that can verify nothing."""
    facts = {"keytype": key.keytype, "scheme": key.scheme, "keyval": key.keyval}
    if key.keyid != sha256_hex((encode_canonical(facts) or "").encode()):
        raise ValueError("its key id is not the key's own")
    try:
        key.verify_signature(Signature(key.keyid, "00" * 64), b"")
    except VerificationError as error:
        raise ValueError("nothing can be verified with it") from error
    except UnverifiedSignatureError:  # as it should be: these zeros were signed by nobody
        return


def load_signer(folder: Path, name: str, ask_passphrase: Callable[[], str] | None = None) -> Signer:
    """Load the key ``NAME`` of a folder through its signer URI; ask for a passphrase only if it is encrypted.

    Raises:
        FileMissingError: there is no such key.
        NotAllowedError: the passphrase is wrong or missing.
    """
    private = (folder / f"{name}.pem").resolve()
    public = read_public_key(folder / f"{name}.pub.json")
    encrypted = b"ENCRYPTED" in read_file(private, "the private key").partition(b"\n")[0]
    uri = f"{SCHEME}:{parse.quote(str(private))}" + ("?encrypted=true" if encrypted else "")
    if encrypted and ask_passphrase is None:
        raise NotAllowedError(f"the key '{name}' is encrypted", hint="pass --passphrase-file FILE")
    try:
        return Signer.from_priv_key_uri(uri, public, lambda _: ask_passphrase() if ask_passphrase else "")
    except OSError as error:
        raise FileMissingError(f"cannot read the key '{private}'", hint="check the path and permissions") from error
    except ValueError as error:
        raise NotAllowedError(
            f"the key '{name}' does not open: {error}", hint="check the passphrase, and that .pem and .pub.json belong"
        ) from error
