# SPDX-License-Identifier: Apache-2.0
"""The agent's own software as content-addressed folders: unpacked from wheel sets, tried once here, then put on trial.

A set lies in ``software/sets/<sha256>/``; its mark ``.complete`` is written last, so that what a power cut left half
done is nothing. Which set starts is the launcher's decision (:mod:`device_agent.launcher`).
"""

import io
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from device_agent.adapters.durable import sync_file, sync_folder
from device_agent.core.software_trial import SoftwareRecord, on_trial
from device_agent.errors import storage_failed
from device_agent.launcher import COMPLETE, read_record, write_record
from edgefleet.contracts.canonical import sha256_file
from edgefleet.contracts.decoding import decode_json
from edgefleet.contracts.errors import BundleError, IncompatibleError, ModelFailedError
from edgefleet.contracts.software import WHEEL_SET_FACTS, WHEEL_SET_LIMIT_BYTES, WHEEL_SET_VERSION, WheelSet

_FACTS_LIMIT_BYTES = 1 << 20
_CHECK_S = 120.0
_COMPILE_S = 600.0
_HINT = "publish a wheel set that was built by scripts/build_wheel_set.py"
#: What a set must bring and be able to do before it may start: import every part, and read this device's own state.
_CHECK = "import device_agent.cli, device_agent.field, device_agent.worker.main, device_agent.repositories.main"


class SoftwareSlots:
    """The wheel sets of one device, in its data folder."""

    def __init__(self, data: Path) -> None:
        self._data = data
        self._folder = data / "software"

    @property
    def record(self) -> SoftwareRecord:
        """What the launcher will decide by."""
        return read_record(self._folder)

    def install(self, archive: Path, sha256: str) -> WheelSet:
        """Verify a set, unpack it, see that it runs here, and put it on trial from the next start on.

        Raises:
            BundleError: the file has another hash, or is no wheel set.
            IncompatibleError: it is for another machine or Python.
            ModelFailedError: its agent cannot be imported here, or cannot read this device's state.
            StorageError: it cannot be written.
        """
        found = sha256_file(archive)
        if found != sha256:
            raise BundleError(f"'{archive.name}' has the SHA-256 {found}, expected {sha256}", hint="fetch it again")
        try:
            with tarfile.open(archive, "r:") as members:
                return self._install(members, archive.name, sha256)
        except (tarfile.TarError, EOFError) as error:
            raise BundleError(f"'{archive.name}' is no wheel set: {error}", hint=_HINT) from error
        except OSError as error:
            raise storage_failed(f"unpack '{archive.name}'", error) from error

    def _install(self, members: tarfile.TarFile, source: str, sha256: str) -> WheelSet:
        facts = _facts(members, source)
        _check_fit(facts)
        folder = self._unpack(members, facts, sha256)
        self._try_here(folder, facts)
        (folder / COMPLETE).touch()
        _sync_tree(folder)
        write_record(self._folder, on_trial(self.record, sha256))
        self._keep_named()
        return facts

    def _unpack(self, members: tarfile.TarFile, facts: WheelSet, sha256: str) -> Path:
        folder = self._folder / "sets" / sha256
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for wheel in facts.wheels:
            data = _read(members, wheel.name, wheel.size_bytes)
            _check_wheel(data, wheel.name, wheel.sha256)
            _unzip(data, wheel.name, folder)
        return folder

    def _try_here(self, folder: Path, facts: WheelSet) -> None:
        """Import its parts and let it read this device's state, in a process of its own."""
        environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
        commands = [["-c", _CHECK]]
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

    def _keep_named(self) -> None:
        """Delete the sets that the record does not name."""
        record = self.record
        for folder in (self._folder / "sets").iterdir():
            if folder.name not in (record.active, record.trial):
                shutil.rmtree(folder, ignore_errors=True)


def _facts(members: tarfile.TarFile, source: str) -> WheelSet:
    first = members.next()
    if first is None or first.name != WHEEL_SET_FACTS or first.size > _FACTS_LIMIT_BYTES:
        raise BundleError(f"'{source}' is no wheel set: its first member is not {WHEEL_SET_FACTS}", hint=_HINT)
    facts = decode_json(_member(members, first), WheelSet, source=f"{source}: {WHEEL_SET_FACTS}", error=BundleError)
    if facts.format_version != WHEEL_SET_VERSION:
        raise BundleError(f"'{source}' has format {facts.format_version}, expected {WHEEL_SET_VERSION}", hint=_HINT)
    return facts


def _check_fit(facts: WheelSet) -> None:
    here = {"machine": platform.machine(), "python": f"{sys.version_info[0]}.{sys.version_info[1]}"}
    for field, expected in here.items():
        got = getattr(facts, field)
        if got not in ("any", expected):
            raise IncompatibleError(
                f"{facts.name} {facts.version} is for the {field} '{got}', this device has '{expected}'",
                hint="publish a wheel set for each kind of device",
            )


def _read(members: tarfile.TarFile, name: str, size_bytes: int) -> bytes:
    member = members.next()
    if member is None or member.name != name or not member.isreg() or member.size != size_bytes:
        raise BundleError(f"the wheel set has no wheel '{name}' where it should be", hint=_HINT)
    return _member(members, member)


def _member(members: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = members.extractfile(member)
    if stream is None:
        raise BundleError(f"'{member.name}' is no file", hint=_HINT)
    return stream.read()


def _check_wheel(data: bytes, name: str, sha256: str) -> None:
    import hashlib  # loads OpenSSL, which an idle agent without TLS does without

    if hashlib.sha256(data).hexdigest() != sha256:
        raise BundleError(f"the wheel '{name}' has another SHA-256 than the set says", hint=_HINT)


def _unzip(data: bytes, name: str, folder: Path) -> None:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as wheel:
            infos = wheel.infolist()
            if sum(info.file_size for info in infos) > WHEEL_SET_LIMIT_BYTES:
                raise BundleError(f"the wheel '{name}' unpacks to more than {WHEEL_SET_LIMIT_BYTES} bytes", hint=_HINT)
            for info, target in _targets(infos, name):
                path = folder / target
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(wheel.read(info))
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
        parts = path.parts
        if parts[0].endswith(".data"):
            if len(parts) > 2 and parts[1] in ("purelib", "platlib"):
                yield info, PurePosixPath(*parts[2:])
        else:
            yield info, path


def _sync_tree(folder: Path) -> None:
    for path in folder.rglob("*"):
        sync_file(path)
    sync_folder(folder)
    sync_folder(folder.parent)
