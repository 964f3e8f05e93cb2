# SPDX-License-Identifier: Apache-2.0
"""Reading wheel sets: whoever publishes, approves or installs one sees that its wheels are what its facts say."""

import tarfile
from dataclasses import dataclass
from pathlib import Path

from edgefleet.contracts.canonical import sha256_file, sha256_hex
from edgefleet.contracts.decoding import decode_json
from edgefleet.contracts.errors import BundleError, FileMissingError
from edgefleet.contracts.software import WHEEL_SET_FACTS, WHEEL_SET_VERSION, WheelFile, WheelSet

_FACTS_LIMIT_BYTES = 1 << 20
_HINT = "publish a wheel set that was built by scripts/build_wheel_set.py"


@dataclass(frozen=True)
class WheelSetFile:
    """A wheel set's file whose wheels are what its facts say."""

    path: Path
    facts: WheelSet
    sha256: str
    size_bytes: int


def is_wheel_set(path: Path) -> bool:
    """Tell whether a file says of itself that it is a wheel set; nothing is checked yet."""
    try:
        with tarfile.open(path, "r:") as members:
            first = members.next()
    except (tarfile.TarError, EOFError, OSError):
        return False
    return first is not None and first.name == WHEEL_SET_FACTS


def open_wheel_set(path: Path) -> WheelSetFile:
    """Read a wheel set's file through.

    Raises:
        FileMissingError: there is no such file.
        BundleError: it is no wheel set, or a wheel is not what the set says.
    """
    if not path.is_file():  # opening a FIFO would wait for ever
        raise FileMissingError(f"there is no wheel set '{path}'", hint="check the path")
    try:
        with tarfile.open(path, "r:") as members:
            facts = read_facts(members, path.name)
            for wheel in facts.wheels:
                read_wheel(members, wheel)
        return WheelSetFile(path, facts, sha256_file(path), path.stat().st_size)
    except (tarfile.TarError, EOFError) as error:
        raise BundleError(f"'{path.name}' is no wheel set: {error}", hint=_HINT) from error
    except OSError as error:
        raise FileMissingError(
            f"cannot read the wheel set '{path}': {error.strerror or error}", hint="check the path and its permissions"
        ) from error


def read_facts(members: tarfile.TarFile, source: str) -> WheelSet:
    """Read a set's facts, its first member.

    Raises:
        BundleError: there are none, or they break the schema.
    """
    first = members.next()
    if first is None or first.name != WHEEL_SET_FACTS or not first.isreg() or first.size > _FACTS_LIMIT_BYTES:
        raise BundleError(f"'{source}' is no wheel set: its first member is not {WHEEL_SET_FACTS}", hint=_HINT)
    facts = decode_json(_content(members, first), WheelSet, source=f"{source}: {WHEEL_SET_FACTS}", error=BundleError)
    if facts.format_version != WHEEL_SET_VERSION:
        raise BundleError(f"'{source}' has format {facts.format_version}, expected {WHEEL_SET_VERSION}", hint=_HINT)
    return facts


def read_wheel(members: tarfile.TarFile, wheel: WheelFile) -> bytes:
    """Read the next wheel.

    Raises:
        BundleError: it is another one than the set says.
    """
    member = members.next()
    if member is None or member.name != wheel.name or not member.isreg() or member.size != wheel.size_bytes:
        raise BundleError(f"the wheel set has no wheel '{wheel.name}' where it should be", hint=_HINT)
    data = _content(members, member)
    if sha256_hex(data) != wheel.sha256:
        raise BundleError(f"the wheel '{wheel.name}' has another SHA-256 than the set says", hint=_HINT)
    return data


def _content(members: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    stream = members.extractfile(member)
    if stream is None:
        raise BundleError(f"'{member.name}' is no file", hint=_HINT)
    return stream.read()
