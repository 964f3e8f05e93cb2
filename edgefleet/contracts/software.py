# SPDX-License-Identifier: Apache-2.0
"""A wheel set: the agent's own software with its runtime, as one file that is signed and named by its SHA-256.

An uncompressed ustar file: first ``set.json`` (:class:`WheelSet`), then each wheel that it lists, in its order. A set
is for one machine and one Python; a device takes no other. :mod:`edgefleet.contracts.wheel_set` reads such files.

Software is released under one name, :data:`SOFTWARE_NAME`, which only its own approvers may sign for: who may sign a
product's models may not thereby run programs on devices.
"""

from typing import Annotated

import msgspec

from edgefleet.contracts.manifest import Fact, Natural
from edgefleet.contracts.names import Name, Sha256, Version

WHEEL_SET_VERSION = 1
WHEEL_SET_FACTS = "set.json"
WHEEL_SET_LIMIT_BYTES = 1 << 30
#: The product that all software of agents is released as.
SOFTWARE_NAME = "edgefleet-agent"
#: What agents that take it by order say of that.
ORDER_KIND = "software"
#: What fits every machine, or every Python.
ANY = "any"
WheelName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{1,200}\.whl\Z")]
#: A machine as ``uname -m`` says it, a Python as ``3.11``.
Machine = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9_]{1,32}\Z")]
PythonVersion = Annotated[str, msgspec.Meta(pattern=r"^(any|[0-9]{1,2}\.[0-9]{1,3})\Z")]


class WheelFile(Fact, frozen=True, kw_only=True):
    """One wheel of a set."""

    name: WheelName
    sha256: Sha256
    size_bytes: Natural


class WheelSet(Fact, frozen=True, kw_only=True):
    """What a set is, and for what: ``machine`` as ``uname -m`` says it, ``python`` as ``3.11``; ``any`` fits all."""

    format_version: int
    name: Name
    version: Version
    machine: Machine
    python: PythonVersion
    wheels: Annotated[tuple[WheelFile, ...], msgspec.Meta(min_length=1, max_length=128)]


def software_platform(machine: str, python: str) -> str:
    """Return what a set is for in one word, such as ``x86_64.python-3.11``; no profile has such a name."""
    return f"{machine}.python-{python}"


def is_platform(text: str) -> bool:
    """Tell whether a text is such a word."""
    return ".python-" in text


def software_target_path(version: str, machine: str, python: str) -> str:
    """Return the TUF target path of a wheel set."""
    file = f"{SOFTWARE_NAME}-{version}-{software_platform(machine, python)}.wheels"
    return f"{SOFTWARE_NAME}/{version}/{file}"
