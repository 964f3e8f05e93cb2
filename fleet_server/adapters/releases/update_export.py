# SPDX-License-Identifier: Apache-2.0
"""An update file for devices that a person visits: what they would ask for, signed to live as long as the journey."""

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO

import msgspec
from sqlalchemy import select
from sqlalchemy.engine import Connection

from edgefleet.contracts.errors import InputError, SettingError
from edgefleet.contracts.update_file import DESCRIPTION_PATH, UpdateDescription, write_update
from fleet_server.adapters.access.audit_log import append_audit
from fleet_server.adapters.devices.director import Director, DirectorFiles
from fleet_server.adapters.releases.image_repository import ImageRepository, prefixed
from fleet_server.adapters.storage.database import Database
from fleet_server.adapters.storage.schema import repository_root
from fleet_server.core.trust.delegation import read_targets

LONGEST_DAYS = 3 * 365
DEVICES_LIMIT = 200
Part = tuple[str, bytes | Path]


class UpdateExport:
    """Writes update files."""

    def __init__(
        self,
        database: Database,
        images: ImageRepository,
        director: Director,
        targets: Path,
        clock: Callable[[], float],
        *,
        tenant: str,
    ) -> None:
        self._database = database
        self._images = images
        self._director = director
        self._targets = targets
        self._clock = clock
        self._tenant = tenant

    def write(self, stream: BinaryIO, devices: Sequence[str], days: float, actor: str) -> None:
        """Write the newest orders of some devices, and all that these need, to live for so many days.

        Raises:
            InputError: no device is named, or too many are.
            SettingError: not a sensible number of days.
            NotFoundError: a device is not known.
            EdgeFleetError: the signer refuses.
        """
        if not 0 < len(devices) <= DEVICES_LIMIT:
            raise InputError(
                f"{len(devices)} devices are named, expected 1 to {DEVICES_LIMIT}", hint="name the devices"
            )
        if not 0.0 < days <= LONGEST_DAYS:
            raise SettingError(f"{days:g} days is no lifetime", hint=f"give up to {LONGEST_DAYS} days")
        now = self._clock()
        expires_at = now + timedelta(days=days).total_seconds()
        orders = {device: self._director.sign_offline(device, expires_at) for device in dict.fromkeys(devices)}
        said = UpdateDescription(format_version=1, tenant=self._tenant, devices=tuple(orders), made_at=int(now))
        parts: list[Part] = [(DESCRIPTION_PATH, msgspec.json.encode(said)), *self._parts(orders, expires_at)]
        write_update(stream, ((path, _size(content), _pieces(content)) for path, content in parts))
        with self._database.write() as connection:
            append_audit(
                connection,
                at=now,
                actor=actor,
                action="update-exported",
                subject=", ".join(orders)[:255],
                detail=f"lives for {days:g} days",
            )

    def _parts(self, orders: dict[str, DirectorFiles], expires_at: float) -> Iterator[Part]:
        with self._database.read() as connection:
            roots = {name: _roots(connection, name) for name in ("director", "image")}
        for device, files in orders.items():
            folder = f"director/{device}"
            yield from ((f"{folder}/{number}.root.json", data) for number, data in roots["director"].items())
            yield f"{folder}/timestamp.json", files.timestamp
            yield f"{folder}/{files.version}.snapshot.json", files.snapshot
            yield f"{folder}/{files.version}.targets.json", files.targets
        roles, snapshot, timestamp = self._images.sign_offline(expires_at)
        yield from ((f"image/{number}.root.json", data) for number, data in roots["image"].items())
        yield "image/timestamp.json", timestamp
        yield f"image/{_version(snapshot)}.snapshot.json", snapshot
        yield from ((f"image/{_version(data)}.{role}.json", data) for role, data in roles.items())
        ordered = {
            file.hashes["sha256"]: path
            for files in orders.values()
            for path, file in read_targets(files.targets, "the order").signed.targets.items()
        }
        yield from ((f"targets/{sha256}", self._targets / prefixed(path, sha256)) for sha256, path in ordered.items())


def _roots(connection: Connection, repository: str) -> dict[int, bytes]:
    table = repository_root
    rows = connection.execute(
        select(table.c.version, table.c.content).where(table.c.repository == repository).order_by(table.c.version)
    )
    return {row.version: bytes(row.content) for row in rows}


class _Signed(msgspec.Struct):
    version: int


class _File(msgspec.Struct):
    signed: _Signed


def _version(metadata: bytes) -> int:
    return msgspec.json.decode(metadata, type=_File).signed.version


def _size(content: bytes | Path) -> int:
    return len(content) if isinstance(content, bytes) else content.stat().st_size


def _pieces(content: bytes | Path) -> Iterator[bytes]:
    if isinstance(content, bytes):
        yield content
        return
    with content.open("rb") as stream:
        while piece := stream.read(1 << 20):
            yield piece
