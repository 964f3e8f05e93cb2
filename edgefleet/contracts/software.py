# SPDX-License-Identifier: Apache-2.0
"""A wheel set: the agent's own software with its runtime, as one file that is signed and named by its SHA-256.

An uncompressed ustar file: first ``set.json`` (:class:`WheelSet`), then each wheel that it lists, in its order. A set
is for one machine and one Python; a device takes no other.
"""

from typing import Annotated

import msgspec

from edgefleet.contracts.manifest import Fact, Natural
from edgefleet.contracts.names import Name, Sha256, Version

WHEEL_SET_VERSION = 1
WHEEL_SET_FACTS = "set.json"
WHEEL_SET_LIMIT_BYTES = 1 << 30
WheelName = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.+-]{1,200}\.whl\Z")]


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
    machine: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_]{1,32}\Z")]
    python: Annotated[str, msgspec.Meta(pattern=r"^(any|[0-9]{1,2}\.[0-9]{1,3})\Z")]
    wheels: Annotated[tuple[WheelFile, ...], msgspec.Meta(min_length=1, max_length=128)]
