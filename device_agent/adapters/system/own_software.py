# SPDX-License-Identifier: Apache-2.0
"""The agent's own software as the running agent sees it: what runs, what is due, and installing another set.

A set is unpacked and tried by a child, the same command that a person would give: the supervisor's memory and its
imports stay as they are.
"""

import json
import os
import subprocess
import sys
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from device_agent.core.orders.software_orders import Here
from device_agent.core.orders.software_trial import (
    SYSTEM,
    SoftwareRecord,
    given_up,
    lifted,
    on_trial,
    proved,
    without,
)
from device_agent.errors import DiskFullError, SoftwareRefusedError, storage_failed
from device_agent.launcher import (
    FOLDER_VARIABLE,
    HEALTHY,
    SET_VARIABLE,
    SYSTEM_VARIABLE,
    read_record,
    read_report,
    write_record,
)
from edgefleet.contracts.errors import ConflictError, EdgeFleetError, StorageError
from edgefleet.contracts.files import read_regular
from edgefleet.contracts.messages import RunningRelease
from edgefleet.contracts.software import SOFTWARE_NAME
from edgefleet.version import __version__

#: What a set is, beside its unpacked wheels: a file of the agent's own, so that its name is none of a package.
RELEASE = ".release.json"
#: Unpacking, trying and compiling a set; what takes longer on any board hangs.
INSTALL_LIMIT_S = 1800.0
_CHILD = (
    "import sys; from device_agent.process_bounds import be_first_to_go, die_with_parent; "
    "die_with_parent(int(sys.argv.pop(1))); be_first_to_go(); from device_agent.cli import main; sys.exit(main())"
)
#: Errors that say nothing of the set: it is tried again.
_PASSING: tuple[type[EdgeFleetError], ...] = (DiskFullError, StorageError, ConflictError)


class OwnSoftware:
    """The port ``OwnSoftware`` of the process that the launcher started, or that nobody did."""

    def __init__(self, data: Path, environment: Mapping[str, str]) -> None:
        self._data = data
        self._folder = data / "software"
        self._launcher = FOLDER_VARIABLE in environment
        self._running = environment.get(SET_VARIABLE, "")
        #: The version of the system's own software, which the launcher belongs to; empty where it does not say.
        self._system = environment.get(SYSTEM_VARIABLE, "" if self._running else __version__)

    @property
    def record(self) -> SoftwareRecord:
        """What the launcher will decide by."""
        return read_record(self._folder)

    @property
    def here(self) -> Here:
        """What runs, and on what."""
        trial = bool(self._running) and self.record.trial == self._running and self._healthy != self._running
        python = ".".join(map(str, sys.version_info[:3]))
        return Here(self._running, trial, self._launcher, os.uname().machine, python)

    def release_of(self, sha256: str) -> RunningRelease | None:
        """Return what a set that lies here is; None where there is none, or nobody noted it."""
        try:
            return msgspec.json.decode(read_regular(self._folder / "sets" / sha256 / RELEASE), type=RunningRelease)
        except (OSError, msgspec.MsgspecError):
            return None

    @property
    def startable(self) -> Mapping[str, RunningRelease | None]:
        """What could start here, by its set, and as which release if known; :data:`SYSTEM` is the system's own."""
        record = self.record
        system = RunningRelease(name=SOFTWARE_NAME, version=self._system, bundle_sha256=SYSTEM)
        named = {name: self.release_of(name) for name in (record.active, record.trial, record.previous) if name}
        return named | {SYSTEM: system if self._system else None}

    def install(self, archive: Path, release: RunningRelease) -> None:
        """Verify, unpack and try a set, and let it be the one that starts next; the archive goes where that is decided.

        Raises:
            SoftwareRefusedError: it is no set for this device, not the one that was signed, or does not run here.
            StorageError: there is no room.
            ConflictError: a person installs one just now.
        """
        signed = ["--sha256", release.bundle_sha256, "--version", release.version]
        words = ["software", "install", str(archive), *signed, "--data", str(self._data), "--json"]
        command = [sys.executable, "-P", "-c", _CHILD, str(os.getpid()), *words]
        try:
            ran = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, timeout=INSTALL_LIMIT_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise _refused("deadline", f"its installation took longer than {INSTALL_LIMIT_S:g} s") from error
        failure = _failure(ran) if ran.returncode else None
        if not isinstance(failure, _PASSING):
            archive.unlink(missing_ok=True)
        if failure is not None:
            raise failure

    def choose(self, sha256: str) -> None:
        """Let a set that lies here whole be the one that starts next.

        Raises:
            StorageError: it cannot be noted.
        """
        self._write(on_trial(proved(self.record, self._healthy), sha256), "choose the software that starts next")

    def lift(self, sha256s: Collection[str]) -> None:
        """Let sets be tried again.

        Raises:
            StorageError: it cannot be noted.
        """
        self._write(lifted(proved(self.record, self._healthy), sha256s), "lift the quarantine of software")

    def without(self, sha256s: Collection[str]) -> SoftwareRecord:
        """Return what the launcher would decide by if these sets were forbidden."""
        return without(proved(self.record, self._healthy), sha256s)

    def forbid(self, sha256s: Collection[str]) -> None:
        """Let sets (:data:`SYSTEM` is the system's own) start no more where there is another.

        Raises:
            StorageError: it cannot be noted.
        """
        self._write(self.without(sha256s), "leave forbidden software")

    def give_up(self) -> None:
        """Let the active set start next: what runs is on trial, and does worse.

        Raises:
            StorageError: it cannot be noted.
        """
        self._write(given_up(self.record, self._running), "give the software on trial up")

    def _write(self, record: SoftwareRecord, what: str) -> None:
        try:
            if record != self.record:
                write_record(self._folder, record)
        except OSError as error:
            raise storage_failed(what, error) from error

    @property
    def _healthy(self) -> str | None:
        return read_report(self._folder / HEALTHY)


def _failure(ran: subprocess.CompletedProcess[bytes]) -> EdgeFleetError:
    """Return what the child said was wrong."""
    try:
        said = json.loads(ran.stdout)["error"]
        code, message, hint = said["code"], said["message"], said["hint"]
    except (ValueError, KeyError, TypeError):
        told = ran.stderr.decode(errors="replace").strip()[-300:] or f"status {ran.returncode}"
        return _refused("installation-failed", f"its installation ended: {told}")
    kind = next((kind for kind in _PASSING if kind.code == code), None)
    return kind(message, hint=hint) if kind is not None else SoftwareRefusedError(code, message, hint=hint)


def _refused(cause: str, message: str) -> SoftwareRefusedError:
    return SoftwareRefusedError(cause, message, hint="what runs goes on; see the agent's log")
