# SPDX-License-Identifier: Apache-2.0
"""What an examination of a device says: each thing that was looked at, how it is, and what to do about it.

The judgements here take what was observed as arguments; observing is :mod:`device_agent.adapters.system.examination`'s.
"""

from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

Level = Literal["ok", "warn", "fail"]
_DAY_S = 86_400.0
#: A renewal is due long before this; who sees a certificate so old has a renewal that does not work.
_RENEWAL_DAYS = 14
_OLDEST_PYTHON = (3, 11)
#: What the agent needs, with the oldest version that it runs with; a runtime is judged apart.
PACKAGES: Mapping[str, tuple[int, ...]] = {
    "msgspec": (0, 20),
    "numpy": (1, 23),
    "cryptography": (45,),
    "paho-mqtt": (2, 1),
    "tuf": (7, 0, 1),
    "urllib3": (2, 5),
}
RUNTIMES = ("ai-edge-litert", "tflite-runtime")


class Finding(NamedTuple):
    """One thing that was looked at; ``todo`` says what to do where it is not well."""

    level: Level
    name: str
    detail: str
    todo: str = ""


def of_python(version: tuple[int, ...]) -> Finding:
    """Judge the Python."""
    shown = ".".join(map(str, version[:3]))
    if version[:2] < _OLDEST_PYTHON:
        return Finding("fail", "python", f"{shown}, expected 3.11 or newer", "install Python 3.11")
    return Finding("ok", "python", shown)


def of_packages(versions: Mapping[str, str]) -> Iterator[Finding]:
    """Judge the versions of installed packages, and the traps among them."""
    for name, least in PACKAGES.items():
        if name not in versions:
            yield Finding("fail", name, "is not installed", "pip install 'edgefleet[device]'")
        elif _numbers(versions[name]) < least:
            wanted = ".".join(map(str, least))
            yield Finding(
                "fail", name, f"{versions[name]}, expected {wanted} or newer", f"pip install '{name}>={wanted}'"
            )
        else:
            yield Finding("ok", name, versions[name])
    yield _runtime(versions)


def _runtime(versions: Mapping[str, str]) -> Finding:
    found = [f"{name} {versions[name]}" for name in RUNTIMES if name in versions]
    if not found:
        return Finding(
            "fail", "runtime", f"neither {' nor '.join(RUNTIMES)} is installed", "pip install ai-edge-litert"
        )
    numpy = _numbers(versions.get("numpy", "0"))
    if "ai-edge-litert" not in versions and numpy >= (2,):
        return Finding(
            "fail",
            "runtime",
            f"{found[0]} cannot make an interpreter with numpy {versions['numpy']}",
            "pip install 'numpy<2'",
        )
    return Finding("ok", "runtime", ", ".join(found))


def of_certificate(not_before: float, not_after: float, now: float) -> Finding:
    """Judge the device's certificate by its dates (Unix seconds)."""
    if now < not_before:
        return Finding(
            "fail", "certificate", "begins in the future: the clock is behind", "set the clock, or let NTP set it"
        )
    days = (not_after - now) / _DAY_S
    if days < 0:
        return Finding(
            "fail", "certificate", f"lapsed {-days:.0f} days ago", "let the agent reach the server; else enrol again"
        )
    if days < _RENEWAL_DAYS:
        return Finding(
            "warn", "certificate", f"ends in {days:.0f} days and was not renewed", "see that the server can be reached"
        )
    return Finding("ok", "certificate", f"is good for {days:.0f} days")


def of_clock(now: float, *, latest_seen: float) -> Finding:
    """Judge the clock by the latest moment that the device has seen for certain (Unix seconds)."""
    if now < latest_seen - _DAY_S:
        behind = (latest_seen - now) / _DAY_S
        return Finding(
            "fail",
            "clock",
            f"at least {behind:.0f} days behind what the device has seen",
            "set the clock, or let NTP set it",
        )
    return Finding("ok", "clock", "agrees with what the device has seen")


def of_disk(*, free_bytes: int, reserve_bytes: int, largest_slot_bytes: int) -> Finding:
    """Judge the room for the next release: a download beside what is there, and the reserve for a way back."""
    shown = f"{free_bytes >> 20} MiB free"
    todo = "delete what is not the agent's, or give the data folder a larger disk"
    if free_bytes < reserve_bytes:
        return Finding("fail", "disk", f"{shown}, less than the reserve of {reserve_bytes >> 20} MiB", todo)
    if free_bytes < reserve_bytes + 2 * largest_slot_bytes:
        return Finding("warn", "disk", f"{shown}: the next release may not fit", todo)
    return Finding("ok", "disk", shown)


def of_key(*, mode: int, sealed: bool, lies_open: bool) -> Finding:
    """Judge how the private key is kept; ``sealed``: a credential for the service manager is there."""
    if lies_open and mode & 0o077:
        return Finding("fail", "key", f"others may read it (mode {mode & 0o777:o})", "chmod 600 identity/key.pem")
    if sealed and lies_open:
        return Finding(
            "warn", "key", "is sealed as a credential and lies in the data folder, too", "shred -u identity/key.pem"
        )
    if sealed:
        return Finding("ok", "key", "is sealed as a credential")
    if lies_open:
        return Finding("ok", "key", "is the agent's alone")
    return Finding("fail", "key", "is not there", "enrol the device again")


def _numbers(version: str) -> tuple[int, ...]:
    """Return the leading numbers of a version."""
    numbers = []
    for part in version.split("."):
        if not part.isdecimal():
            break
        numbers.append(int(part))
    return tuple(numbers)
