# SPDX-License-Identifier: Apache-2.0
"""Starts the agent from the wheel set that is due: ``python launcher.py run --data D …``.

This file is the system's own and is never updated from afar; it needs the standard library and nothing else. It counts
each start durably before it makes it, and then *becomes* the agent (exec): the service manager sees one process. One on
trial has an alarm set that only its report of health takes off, so that a start that hangs ends by itself.

========================= =======================================================================
``software/record.json``  what is active, on trial, and bad
``software/sets/SHA256/`` one unpacked wheel set; ``.complete`` in it was written last
``software/healthy``      the running agent's report, by its set's name, that all is well
``software/stopped``      the same of a clean stop
``software/happened``     what the launcher did, for the agent to report
========================= =======================================================================
"""

import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from device_agent.core.orders.software_trial import SYSTEM, SoftwareRecord, Start, at_start
from edgefleet.version import __version__

COMPLETE = ".complete"
HEALTHY, STOPPED = "healthy", "stopped"
#: How long one on trial may take until it reports health: to come up, to serve, and to hear from the server.
TRIAL_S = 600
#: What the agent is told of how it was started.
SET_VARIABLE = "EDGEFLEET_SOFTWARE"
FOLDER_VARIABLE = "EDGEFLEET_SOFTWARE_FOLDER"
TRIAL_VARIABLE = "EDGEFLEET_SOFTWARE_TRIAL_S"
SYSTEM_VARIABLE = "EDGEFLEET_SYSTEM_VERSION"


class Launch(NamedTuple):
    """A program to become: its arguments and environment, and the seconds after which it is ended (0: never)."""

    arguments: list[str]
    environment: dict[str, str]
    alarm_s: int


def main(arguments: Sequence[str]) -> NoReturn:
    """Choose, remember, and become the agent."""
    launch = prepare(arguments, os.environ)
    if launch.alarm_s:
        signal.alarm(launch.alarm_s)  # it survives exec
    os.execve(launch.arguments[0], launch.arguments, launch.environment)  # noqa: S606  it becomes the agent


def prepare(arguments: Sequence[str], environment: Mapping[str, str]) -> Launch:
    """Decide what to become; whatever goes wrong here, the system's own agent starts."""
    data = _data_folder(arguments)
    own = dict(environment)
    command = [sys.executable, "-m", "device_agent", *arguments]
    if data is None or not arguments or arguments[0] != "run":
        return Launch(command, own, 0)
    folder = Path(data) / "software"
    try:
        start = _decide(folder)
    except OSError as error:
        sys.stderr.write(f"the system's own software starts: {folder}: {error.strerror or error}\n")
        return Launch(command, own, 0)
    own[SET_VARIABLE], own[FOLDER_VARIABLE], own[SYSTEM_VARIABLE] = start.run, str(folder), __version__
    if start.run != SYSTEM:
        own["PYTHONPATH"] = str(folder / "sets" / start.run)
    on_trial = start.run != SYSTEM and start.run == start.record.trial
    alarm_s = int(own.get(TRIAL_VARIABLE, TRIAL_S)) if on_trial else 0
    return Launch(command, own, alarm_s)


def read_record(folder: Path) -> SoftwareRecord:
    """Return what is remembered; what cannot be read is nothing, and then the system's own starts."""
    try:
        fields = json.loads((folder / "record.json").read_text())
        active, trial, failures, bad = (fields[name] for name in ("active", "trial", "failures", "bad"))
        previous = fields.get("previous", SYSTEM)
        names = isinstance(active, str) and isinstance(trial, str) and isinstance(previous, str)
        if names and isinstance(failures, int) and isinstance(bad, list):
            return SoftwareRecord(active, trial, failures, tuple(map(str, bad)), previous)
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return SoftwareRecord()


def read_report(path: Path) -> str | None:
    """Return which set reported so, None if none did."""
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return None


def write_record(folder: Path, record: SoftwareRecord) -> None:
    """Remember durably.

    Raises:
        OSError: it cannot be written.
    """
    write(folder / "record.json", json.dumps(record._asdict()))


def write(path: Path, text: str) -> None:
    """Write a small file so that a power cut leaves the old or the new one.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _decide(folder: Path) -> Start:
    if not (folder / "record.json").exists():  # a device that never had an update remembers nothing, and writes nothing
        return Start(SoftwareRecord(), SYSTEM)
    present = frozenset(path.parent.name for path in folder.glob(f"sets/*/{COMPLETE}"))
    healthy, stopped = read_report(folder / HEALTHY), read_report(folder / STOPPED)
    start = at_start(read_record(folder), healthy=healthy, stopped=stopped, present=present)
    write_record(folder, start.record)
    for report in (HEALTHY, STOPPED):
        (folder / report).unlink(missing_ok=True)
    if start.happened:
        write(folder / "happened", start.happened)
    return start


def _data_folder(arguments: Sequence[str]) -> str | None:
    for number, word in enumerate(arguments):
        if word == "--data" and number + 1 < len(arguments):
            return arguments[number + 1]
        if word.startswith("--data="):
            return word.removeprefix("--data=")
    return None


if __name__ == "__main__":
    main(sys.argv[1:])
