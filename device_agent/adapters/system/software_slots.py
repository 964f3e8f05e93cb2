# SPDX-License-Identifier: Apache-2.0
"""The agent's own software as content-addressed folders: unpacked from wheel sets, tried once here, then put on trial.

A set lies in ``software/sets/<sha256>/``; its mark ``.complete`` comes when all else is on the disk, and goes before
anything else does, so that what a power cut left half done is nothing. Which set starts is the launcher's decision
(:mod:`device_agent.launcher`).
"""

import errno
import io
import os
import platform
import shutil
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from device_agent.adapters.storage.durable import sync_file, sync_folder, write_durably
from device_agent.adapters.system.local_socket import lock
from device_agent.adapters.system.own_software import RELEASE
from device_agent.core.orders.software_orders import misfit
from device_agent.core.orders.software_trial import SoftwareRecord, on_trial, proved
from device_agent.core.settings.agent_settings import AgentSettings
from device_agent.errors import DiskFullError, storage_failed
from device_agent.launcher import COMPLETE, HEALTHY, read_record, read_report, write_record
from edgefleet.contracts.canonical import canonical_json, sha256_file
from edgefleet.contracts.errors import BundleError, ConflictError, IncompatibleError, ModelFailedError
from edgefleet.contracts.messages import RunningRelease
from edgefleet.contracts.software import SOFTWARE_NAME, WHEEL_SET_LIMIT_BYTES, WheelSet
from edgefleet.contracts.wheel_set import read_facts, read_wheel

_CHECK_S = 120.0
_COMPILE_S = 600.0
_HINT = "publish a wheel set that was built by scripts/build_wheel_set.py"
#: What a set must bring and be able to do before it may start: import every part, and read this device's own state.
_CHECK = (
    "import sys, device_agent.cli, device_agent.field, device_agent.worker.main, device_agent.repositories.main; "
    "sys.exit(None if device_agent.__file__.startswith(sys.argv[1]) else 'the set brings no agent')"
)
#: What writing says of names that no two files, or no file, can have here: the set's fault, not the disk's.
_NAMES_AT_FAULT = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.EINVAL, errno.ELOOP)
#: What the standard library raises on archives that are none.
_NO_ARCHIVE = (tarfile.TarError, EOFError, KeyError, RecursionError, UnicodeError, zlib.error, struct.error)
_OURS = (COMPLETE, RELEASE)
_PIECE_BYTES = 1 << 20
#: What stays free on the disk for the agent's state and a way back.
_RESERVE_BYTES = AgentSettings().reserve_bytes


class SoftwareSlots:
    """The wheel sets of one device, in its data folder."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._folder = data / "software"

    @property
    def record(self) -> SoftwareRecord:
        """What the launcher will decide by."""
        return read_record(self._folder)

    def install(self, archive: Path, sha256: str, *, version: str | None = None) -> WheelSet:
        """Verify a set, unpack it, see that it runs here, and put it on trial from the next start on.

        With ``version`` it must be that release of the agent's software, as a signed order says.

        Raises:
            BundleError: the file has another hash, is no wheel set, or another release.
            IncompatibleError: it is for another machine or Python.
            ModelFailedError: its agent cannot be imported here, or cannot read this device's state.
            ConflictError: another installation is under way.
            StorageError: it cannot be written.
        """
        if (size_bytes := archive.stat().st_size) > WHEEL_SET_LIMIT_BYTES:
            raise BundleError(
                f"'{archive.name}' has {size_bytes} bytes, over the limit of {WHEEL_SET_LIMIT_BYTES}", hint=_HINT
            )
        found = sha256_file(archive)
        if found != sha256:
            raise BundleError(f"'{archive.name}' has the SHA-256 {found}, expected {sha256}", hint="fetch it again")
        try:
            return self._install(archive, sha256, version)
        except _NO_ARCHIVE as error:
            raise BundleError(f"'{archive.name}' is no wheel set: {error}", hint=_HINT) from error
        except OSError as error:
            if error.errno in _NAMES_AT_FAULT:
                raise BundleError(
                    f"'{archive.name}' cannot be unpacked: {error.strerror} ({str(error.filename)[-100:]})", hint=_HINT
                ) from error
            raise storage_failed(f"unpack '{archive.name}'", error) from error

    def _install(self, archive: Path, sha256: str, version: str | None) -> WheelSet:
        held = self._lock()
        try:
            self._drop_halves()
            self._check_room(_unpacked_bytes(archive))
            with tarfile.open(archive, "r:") as members:
                facts = read_facts(members, archive.name)
                _check_facts(facts, archive.name, version)
                self._put(members, facts, sha256)
                return facts
        finally:
            os.close(held)

    def _drop_halves(self) -> None:
        """Delete what a power cut left half unpacked: the next set may need its room."""
        for folder in self._folder.glob("sets/*"):
            if not (folder / COMPLETE).exists():
                shutil.rmtree(folder, ignore_errors=True)

    def _check_room(self, unpacked_bytes: int) -> None:
        """Leave a disk alone that a set would fill: what runs keeps its state there."""
        if unpacked_bytes > WHEEL_SET_LIMIT_BYTES:
            raise BundleError(f"the wheel set unpacks to more than {WHEEL_SET_LIMIT_BYTES} bytes", hint=_HINT)
        needed, free = unpacked_bytes * 3 // 2, shutil.disk_usage(self._folder).free  # a third of it is bytecode
        if free < needed + _RESERVE_BYTES:
            raise DiskFullError(
                f"the wheel set needs {needed} bytes to be unpacked beside a reserve of {_RESERVE_BYTES} bytes, "
                f"{free} bytes are free",
                hint="free space on the device; what runs goes on",
            )

    def _lock(self) -> int:
        self._folder.mkdir(parents=True, exist_ok=True)
        try:
            return lock(self._folder / "lock")
        except ConflictError as error:
            raise ConflictError(
                "another installation of software is under way", hint="wait until it is done"
            ) from error

    def _put(self, members: tarfile.TarFile, facts: WheelSet, sha256: str) -> None:
        """Unpack a set unless it lies there whole, and put it on trial."""
        folder = self._folder / "sets" / sha256
        if not (folder / COMPLETE).exists():
            try:
                self._complete(members, facts, sha256, folder)
            except BaseException:
                shutil.rmtree(folder, ignore_errors=True)  # what is kept free is for a way back
                raise
        before = proved(self.record, read_report(self._folder / HEALTHY))
        after = on_trial(before, sha256)
        write_record(self._folder, after)
        # what was on trial may be what runs just now
        self._keep({before.active, before.trial, after.trial, after.previous})

    def _complete(self, members: tarfile.TarFile, facts: WheelSet, sha256: str, folder: Path) -> None:
        self._unpack(members, facts, folder)
        self._try_here(folder, facts)
        release = RunningRelease(name=facts.name, version=facts.version, bundle_sha256=sha256)
        write_durably(folder / RELEASE, canonical_json(release))
        _sync_tree(folder)
        (folder / COMPLETE).touch()
        sync_folder(folder)

    def _unpack(self, members: tarfile.TarFile, facts: WheelSet, folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for wheel in facts.wheels:
            _unzip(read_wheel(members, wheel), wheel.name, folder)

    def _try_here(self, folder: Path, facts: WheelSet) -> None:
        """Import its parts and let it read this device's state, in a process of its own."""
        environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        commands = [["-c", _CHECK, str(folder)]]
        if (self._data / "identity" / "device.json").exists():
            commands.append(["-m", "device_agent", "status", "--data", str(self._data), "--json"])
        for command in commands:
            words = [sys.executable, "-P", *command]
            try:
                ran = subprocess.run(words, env=environment, capture_output=True, timeout=_CHECK_S, check=False)
                said, status = ran.stderr.decode(errors="replace").strip()[-500:], ran.returncode
            except subprocess.TimeoutExpired:
                said, status = f"took longer than {_CHECK_S:g} s", 1
            if status:
                raise ModelFailedError(
                    f"{facts.name} {facts.version} does not run on this device: {said}", hint="what runs goes on"
                )
        compiling = [sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(folder)]
        with suppress(subprocess.TimeoutExpired):  # it only makes starts faster
            subprocess.run(compiling, capture_output=True, timeout=_COMPILE_S, check=False)

    def _keep(self, named: set[str]) -> None:
        """Delete the other sets."""
        for folder in (self._folder / "sets").iterdir():
            if folder.name not in named:
                (folder / COMPLETE).unlink(missing_ok=True)
                sync_folder(folder)
                shutil.rmtree(folder, ignore_errors=True)


def _check_facts(facts: WheelSet, source: str, version: str | None) -> None:
    if version is not None and (facts.name, facts.version) != (SOFTWARE_NAME, version):
        raise BundleError(
            f"'{source}' is {facts.name} {facts.version}, expected {SOFTWARE_NAME} {version}",
            hint="publish the wheel set that the release's facts describe",
        )
    if why := misfit(facts.machine, facts.python, machine=platform.machine(), python=platform.python_version()):
        raise IncompatibleError(
            f"{facts.name} {facts.version} is for {why}", hint="publish a wheel set for each kind of device"
        )


def _unpacked_bytes(archive: Path) -> int:
    """Return what the wheels of a set say that they unpack to; one that is none is refused when it is unpacked."""
    total = 0
    with tarfile.open(archive, "r:") as members:
        for member in members:
            stream = members.extractfile(member) if member.isreg() and member.name.endswith(".whl") else None
            if stream is not None:
                with suppress(zipfile.BadZipFile, NotImplementedError), zipfile.ZipFile(stream) as wheel:
                    total += sum(info.file_size for info in wheel.infolist())
    return total


def _unzip(data: bytes, name: str, folder: Path) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as wheel:
            infos = wheel.infolist()
            for info, target in _targets(infos, name):
                path = folder / target
                path.parent.mkdir(parents=True, exist_ok=True)
                with wheel.open(info) as packed, path.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, _PIECE_BYTES)  # never more than it is said to unpack to
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise BundleError(f"'{name}' is no wheel: {error}", hint=_HINT) from error


def _targets(infos: list[zipfile.ZipInfo], name: str) -> Iterator[tuple[zipfile.ZipInfo, PurePosixPath]]:
    """Yield the files to write and where; what a wheel brings for other folders than its packages' is left out."""
    for info in infos:
        path = PurePosixPath(info.filename)
        if info.is_dir():
            continue
        if path.is_absolute() or ".." in path.parts or "\\" in info.filename or "\0" in info.filename:
            raise BundleError(f"the wheel '{name}' has a file outside of itself: '{info.filename[:100]}'", hint=_HINT)
        target = _target(path)
        if target is not None and target.parts and target.parts[0] not in _OURS:  # these are ours to write
            yield info, target


def _target(path: PurePosixPath) -> PurePosixPath | None:
    if not path.parts or not path.parts[0].endswith(".data"):
        return path
    return PurePosixPath(*path.parts[2:]) if path.parts[1:2] in (("purelib",), ("platlib",)) else None


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        sync_file(path)
    sync_folder(folder)
    sync_folder(folder.parent)
