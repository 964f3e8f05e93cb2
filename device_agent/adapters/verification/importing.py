# SPDX-License-Identifier: Apache-2.0
"""Taking in an update file: its form, its signatures and its bundles are checked before the agent hears of it.

The verification is the agent's own, over a copy of what the device trusts: the running agent's copy is its own to
write, and it verifies everything again.
"""

import shutil
import tempfile
from pathlib import Path

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.storage.state_file import read_record
from device_agent.adapters.verification.inbox import FolderConnection, Inbox
from device_agent.adapters.verification.trust import TufTrust
from device_agent.core.identity import Identity
from device_agent.core.orders.release_orders import Order, TargetFile
from device_agent.errors import CorruptDownloadError, storage_failed
from edgefleet.contracts.canonical import sha256_file
from edgefleet.contracts.errors import RefusedError, UnreachableError
from edgefleet.contracts.messages import RunningRelease
from edgefleet.contracts.update_file import UpdateFile, open_update


def import_update(folder: DataFolder, path: Path, *, reserve_bytes: int) -> Order:
    """Check an update file, and put it into the inbox; return what it orders.

    Raises:
        FileMissingError: there is no such file, or no enrolled device.
        RefusedError: the file's form is broken, it is for another device, or lacks something.
        TrustRefusedError: the metadata or the order is refused.
        CorruptDownloadError: a bundle has another length or hash than both repositories say.
        StorageError: the disk is full.
    """
    identity = folder.read_identity()
    update = open_update(path)
    _check_addressee(update, identity)
    inbox = Inbox(folder.root)
    unpacked = inbox.unpack(update, reserve_bytes=reserve_bytes)
    try:
        order = _verified(folder, identity, unpacked)
        for wanted in order.wanted:
            _check_file(unpacked, wanted.target, wanted.release, there=folder.slots / f"{wanted.target.sha256}.bundle")
        if (software := order.software) is not None:
            there = folder.root / "software" / "sets" / software.target.sha256
            _check_file(unpacked, software.target, software.release, there=there)
        inbox.accept()
    finally:
        inbox.drop_unpacked()
    return order


def _check_addressee(update: UpdateFile, identity: Identity) -> None:
    said = update.description
    if said.tenant != identity.tenant or identity.device not in said.devices:
        named = ", ".join(said.devices[:5]) + (", …" if len(said.devices) > 5 else "")
        raise RefusedError(
            f"'{update.path.name}' is for {named} of {said.tenant}, not for '{identity.device}' of {identity.tenant}",
            hint=f"export one for this device: edgefleet releases export --device {identity.device} --output FILE",
        )


def _verified(folder: DataFolder, identity: Identity, unpacked: Path) -> Order:
    record = read_record(folder.state)
    seen = record.counter if record is not None else 0
    try:
        with tempfile.TemporaryDirectory(prefix="import-", dir=folder.root) as scratch:
            copy = DataFolder(Path(scratch))
            shutil.copytree(folder.trust, copy.trust)
            return TufTrust(copy, identity, FolderConnection(unpacked, identity.device)).check(seen)
    except UnreachableError as error:  # what would be a server's 404 is a member that is not there
        raise RefusedError(
            "the update file lacks metadata that this device needs", hint="export it again from the server"
        ) from error
    except OSError as error:
        raise storage_failed("check the update", error) from error


def _check_file(unpacked: Path, target: TargetFile, release: RunningRelease, *, there: Path) -> None:
    """Refuse an update whose file of a release is missing or another; what is ``there`` already need not come."""
    file = unpacked / "targets" / target.sha256
    if not file.is_file():
        if there.exists():
            return
        raise RefusedError(
            f"the update file lacks the bundle of {release.name} {release.version}",
            hint="export it again from the server",
        )
    if file.stat().st_size != target.size_bytes or sha256_file(file) != target.sha256:
        raise CorruptDownloadError(
            f"the bundle of {release.name} {release.version} has another length or SHA-256 than both repositories say",
            hint="copy the file to the stick again, and check the stick",
        )
