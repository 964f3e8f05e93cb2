# SPDX-License-Identifier: Apache-2.0
"""What to do about software of the agent's own that a verified order names.

What an order says of software is followed once: what was refused, or failed its trial, is not tried again for the same
order. Once a signed order has lifted it, it gets another trial from that order or from a later one, again once.
"""

from typing import Literal, NamedTuple

from device_agent.core.orders.release_orders import SignedSoftware
from device_agent.core.orders.software_trial import SoftwareRecord

_ANY = "any"


class Here(NamedTuple):
    """What runs: which set (empty: the system's own), whether it has yet to prove itself, on what.

    Without a launcher there is nobody who would start another set, or take it back.
    """

    running: str
    on_trial: bool
    launcher: bool
    machine: str
    python: str


class Verdict(NamedTuple):
    """What to do about ordered software.

    ``choose`` lets a set that lies here be the one that starts next; ``restart`` ends this process, so that the
    launcher starts what is due.
    """

    action: Literal["nothing", "install", "choose", "restart", "refuse"]
    cause: str = ""
    detail: str = ""


NOTHING = Verdict("nothing")
_NO_LAUNCHER = (
    "this agent was not started by its launcher, which tries new software and takes it back: update it as it was "
    "installed, or install the system's package"
)


def judge(wanted: SignedSoftware, record: SoftwareRecord, here: Here) -> Verdict:
    """Return what to do about ordered software; ``record`` is the launcher's.

    What is on trial is left alone until it has proved itself or was taken back, unless the active one is ordered.
    """
    sha256 = wanted.target.sha256
    due = record.trial or record.active
    if sha256 == here.running:
        return NOTHING if sha256 == due else Verdict("choose")
    if why := _why_not(wanted, here):
        return Verdict("refuse", *why)
    if sha256 in (record.trial, record.active):
        return Verdict("restart" if sha256 == due else "choose")
    if here.on_trial:
        return NOTHING
    if sha256 in record.bad:
        return Verdict("refuse", "quarantined", f"{_name(wanted)} failed its trial on this device")
    return Verdict("install")


def _why_not(wanted: SignedSoftware, here: Here) -> tuple[str, str] | None:
    if not here.launcher:
        return "no-launcher", f"{_name(wanted)} cannot be tried: {_NO_LAUNCHER}"
    if why := misfit(wanted.machine, wanted.python, machine=here.machine, python=here.python):
        return "does-not-fit", f"{_name(wanted)} is for {why}"
    return None


def _name(wanted: SignedSoftware) -> str:
    return f"{wanted.release.name} {wanted.release.version}"


def misfit(wanted_machine: str, wanted_python: str, *, machine: str, python: str) -> str:
    """Say why a set does not fit a device, empty if it does; ``python`` is the device's whole version."""
    here = ".".join(python.split(".")[:2])
    for what, wanted, got in (("machine", wanted_machine, machine), ("python", wanted_python, here)):
        if wanted not in (_ANY, got):
            return f"the {what} '{wanted}', this device has '{got}'"
    return ""
