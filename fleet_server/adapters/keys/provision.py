# SPDX-License-Identifier: Apache-2.0
"""A new server's keys, roots and certificates, and new delegations: everything that offline keys do."""

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from securesystemslib.exceptions import UnverifiedSignatureError, VerificationError
from sqlalchemy import insert

from edgefleet.contracts.canonical import canonical_json
from edgefleet.contracts.errors import ConflictError, InputError, SettingError, TrustError
from edgefleet.contracts.names import is_name
from edgefleet.contracts.tuf_custom import DIRECTOR_REPOSITORY, IMAGE_REPOSITORY
from fleet_server.adapters.access.audit_log import append_audit
from fleet_server.adapters.access.tokens import create_token
from fleet_server.adapters.devices.device_register import SERVER_NAME
from fleet_server.adapters.keys.certificates import create_authority, issue_client, issue_server
from fleet_server.adapters.keys.key_files import create_key
from fleet_server.adapters.keys.signer_process import SignerProcess
from fleet_server.adapters.releases.image_repository import ImageRepository
from fleet_server.adapters.storage.data_folder import DataFolder, ServerSettings
from fleet_server.adapters.storage.database import Database
from fleet_server.adapters.storage.private_files import all_or_nothing, make_private_folder, write_file, write_secret
from fleet_server.adapters.storage.schema import image_metadata, repository_root
from fleet_server.core.trust.delegation import production_role, read_targets
from fleet_server.core.trust.tuf_types import DelegatedRole, Delegations, Key, Metadata, Root, Signer, Targets

ROOT_LIFETIME = timedelta(days=730)
TARGETS_LIFETIME = timedelta(days=365)
#: A host's name as certificates hold it (an international one in its ASCII form), or an IPv4 or IPv6 address.
_HOST = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?|[0-9A-Fa-f:.]{2,45}")


@dataclass(frozen=True)
class OfflineKeys:
    """The two keys that stay with the administrator."""

    root: Signer
    targets: Signer


def init_server(
    folder: DataFolder,
    home: Path,
    *,
    tenant: str,
    hosts: Sequence[str],
    passphrase: bytes | None = None,
    certificate_days: float | None = None,
) -> str:
    """Make a new server's folder and the administrator's keys; return the first admin token (also in HOME/token).

    ``certificate_days`` is how long a device's certificate holds (the usual time if it is not given).

    Raises:
        ConflictError: the folder or the home has keys already; nothing is overwritten.
        SettingError: the tenant's name or a host's is none.
        StorageError: the disk said no; nothing is left behind.
    """
    if not is_name(tenant):
        raise SettingError(f"'{tenant}' cannot name a tenant", hint="use lowercase letters, digits, '-' and '_'")
    for host in hosts:
        if not _HOST.fullmatch(host):
            raise SettingError(
                f"'{host}' is neither a host's name nor an address",
                hint="name it as devices reach it: --host fleet.lan",
            )
    _check_empty(folder, home)
    with all_or_nothing(folder.path, home):
        token = _make_server(folder, home, tenant=tenant, hosts=hosts, passphrase=passphrase)
        if certificate_days is not None:
            write_file(folder.signer / "certificate-days", repr(certificate_days).encode(), mode=0o600)
        return token


def _make_server(folder: DataFolder, home: Path, *, tenant: str, hosts: Sequence[str], passphrase: bytes | None) -> str:
    keys = OfflineKeys(create_key(home / "keys", "root", passphrase), create_key(home / "keys", "targets", passphrase))
    make_private_folder(folder.path)
    image = create_key(folder.signer, "image")
    director = create_key(folder.signer, "director")
    image_root = _signed_root(keys.root, targets=keys.targets.public_key, online=image.public_key)
    director_root = _signed_root(keys.root, targets=director.public_key, online=director.public_key)
    write_file(folder.signer / "image-root.json", image_root, mode=0o600)
    write_file(folder.signer / "tenant", tenant.encode(), mode=0o600)
    _write_certificates(folder, home, tenant, hosts)
    token = _fill_database(folder, keys, image_root, director_root)
    write_secret(home / "token", token.encode())
    write_file(folder.settings_path, canonical_json(ServerSettings(tenant=tenant, hosts=tuple(hosts))))
    _publish_first(folder)
    return token


@dataclass(frozen=True)
class ProductDelegation:
    """Who may approve a product's releases, and how many of them it takes."""

    product: str
    approvers: Sequence[Key]
    threshold: int


def delegate_product(current: bytes, signer: Signer, delegation: ProductDelegation) -> bytes:
    """Return the next top-level targets metadata, with a terminating delegation to a product's approvers.

    A delegation that exists is replaced.

    Raises:
        InputError: the threshold cannot be met, an approver is named twice, or the product's name is none.
        TrustError: ``current`` was not signed with the offline targets key.
    """
    product, approvers, threshold = delegation.product, delegation.approvers, delegation.threshold
    if not is_name(product):
        raise InputError(f"'{product}' cannot name a product", hint="use lowercase letters, digits, '-' and '_'")
    keys = {key.keyid: key for key in approvers}
    if len(keys) != len(approvers) or not 1 <= threshold <= len(keys):
        raise InputError(
            f"a threshold of {threshold} needs as many different approvers, got {len(keys)}",
            hint="name each approver once, and a threshold of at most their number",
        )
    metadata = read_targets(current, "the targets metadata")
    _check_own_signature(metadata, signer)
    role = DelegatedRole(
        name=production_role(product),
        keyids=sorted(keys),
        threshold=threshold,
        terminating=True,
        paths=[f"{product}/*/*"],
    )
    old = metadata.signed.delegations
    roles = dict(old.roles) if old is not None and old.roles is not None else {}
    roles[role.name] = role
    used = {keyid for delegated in roles.values() for keyid in delegated.keyids}
    known = (dict(old.keys) if old is not None else {}) | keys
    delegations = Delegations(keys={keyid: known[keyid] for keyid in sorted(used)}, roles=roles)
    signed = Targets(
        version=metadata.signed.version + 1,
        expires=_from_now(TARGETS_LIFETIME),
        targets={},
        delegations=delegations,
        unrecognized_fields=dict(metadata.signed.unrecognized_fields),  # what is recalled stays recalled
    )
    return _signed(Metadata(signed), signer)


def publish_targets_offline(folder: DataFolder, signer: Signer, delegation: ProductDelegation) -> None:
    """Make a delegation on a server that is not running.

    Raises:
        ConflictError: the server runs.
    """
    with folder.locked():
        online = SignerProcess(folder.signer)
        database = Database(folder.database_path)
        try:
            images = ImageRepository(database, folder.targets, online, time.time)
            data = delegate_product(images.newest("targets") or b"", signer, delegation)
            images.publish({"targets": data})
            with database.write() as connection:
                append_audit(
                    connection,
                    at=time.time(),
                    actor="offline targets key",
                    action="targets-published",
                    subject=delegation.product,
                )
        finally:
            online.close()
            database.close()


def _check_empty(folder: DataFolder, home: Path) -> None:
    for path in (folder.settings_path, folder.signer, home / "keys" / "root.pem", home / "token"):
        if path.exists():
            raise ConflictError(
                f"'{path}' exists already; nothing was changed", hint="use new folders for a new server"
            )


def _signed_root(root_key: Signer, *, targets: Key, online: Key) -> bytes:
    root = Root(expires=_from_now(ROOT_LIFETIME), consistent_snapshot=True)
    roles = {"root": root_key.public_key, "targets": targets, "snapshot": online, "timestamp": online}
    for role, key in roles.items():
        root.add_key(key, role)
    return _signed(Metadata(root), root_key)


def _write_certificates(folder: DataFolder, home: Path, tenant: str, hosts: Sequence[str]) -> None:
    """Make both authorities; the server's stays with the administrator, the devices' goes to the signer."""
    server_authority = create_authority(tenant, "server")
    device_authority = create_authority(tenant, "device")
    write_secret(home / "keys" / "server-authority.key", server_authority.key_pem)
    write_file(home / "keys" / "server-authority.crt", server_authority.certificate_pem)
    write_secret(folder.signer / "device-authority.key", device_authority.key_pem)
    write_file(folder.signer / "device-authority.crt", device_authority.certificate_pem)
    folder.tls.mkdir(mode=0o700)
    write_file(folder.tls / "server-authority.crt", server_authority.certificate_pem)
    write_file(folder.tls / "device-authority.crt", device_authority.certificate_pem)
    issued = {
        "server": issue_server(server_authority, tenant, hosts),
        "broker": issue_server(server_authority, tenant, hosts),
        "broker-client": issue_client(device_authority, tenant, SERVER_NAME),
    }
    for name, keyed in issued.items():
        write_secret(folder.tls / f"{name}.key", keyed.key_pem)
        write_file(folder.tls / f"{name}.crt", keyed.certificate_pem)


def _fill_database(folder: DataFolder, keys: OfflineKeys, image_root: bytes, director_root: bytes) -> str:
    database = Database(folder.database_path)
    try:
        database.migrate()
        targets = _signed(Metadata(Targets(expires=_from_now(TARGETS_LIFETIME))), keys.targets)
        with database.write() as connection:
            for repository, content in ((IMAGE_REPOSITORY, image_root), (DIRECTOR_REPOSITORY, director_root)):
                connection.execute(insert(repository_root).values(repository=repository, version=1, content=content))
            connection.execute(insert(image_metadata).values(role="targets", version=1, content=targets))
            append_audit(connection, at=time.time(), actor="server", action="server-initialised", subject="server")
            return create_token(connection, name="admin", role="admin", now=time.time())
    finally:
        database.close()
        folder.database_path.chmod(0o600)


def _publish_first(folder: DataFolder) -> None:
    signer = SignerProcess(folder.signer)
    database = Database(folder.database_path)
    try:
        ImageRepository(database, folder.targets, signer, time.time).publish({})
    finally:
        signer.close()
        database.close()


def _check_own_signature(metadata: Metadata[Targets], signer: Signer) -> None:
    key = signer.public_key
    signature = metadata.signatures.get(key.keyid)
    refusal = TrustError(
        "the server's targets metadata was not signed with this offline key",
        hint="use the targets key of 'server init'; if you did, find out who changed the server's metadata",
    )
    if signature is None:
        raise refusal
    try:
        key.verify_signature(signature, metadata.signed_bytes)
    except (UnverifiedSignatureError, VerificationError) as error:
        raise refusal from error


def _signed(metadata: Metadata[Root] | Metadata[Targets], signer: Signer) -> bytes:
    metadata.sign(signer)
    return metadata.to_bytes()


def _from_now(lifetime: timedelta) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + lifetime
