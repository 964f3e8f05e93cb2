# SPDX-License-Identifier: Apache-2.0
"""Turn TOML or JSON bytes into a contract's structure, or into one sentence that names the wrong field."""

import tomllib
from typing import TypeVar

import msgspec

from edgefleet.contracts.errors import EdgeFleetError, SettingError

#: No file that a person keeps by hand is larger; the parser would take minutes.
TOML_LIMIT_BYTES = 1 << 20
T = TypeVar("T")


def decode_toml(data: bytes, kind: type[T], *, source: str, error: type[EdgeFleetError] = SettingError) -> T:
    """Decode TOML into ``kind``; ``source`` is what the user calls the file.

    Raises:
        EdgeFleetError: of class ``error``: it is too large, or no TOML, or the field whose path is named is wrong.
    """
    if len(data) > TOML_LIMIT_BYTES:
        raise error(
            f"{source} is {len(data)} bytes, over the limit of {TOML_LIMIT_BYTES}", hint="check that this is the file"
        )
    try:
        return msgspec.convert(tomllib.loads(data.decode("utf-8")), kind)
    except UnicodeDecodeError as cause:
        raise error(f"{source} is not UTF-8 text", hint="save the file as UTF-8 TOML") from cause
    except tomllib.TOMLDecodeError as cause:
        raise error(f"{source} is not TOML: {cause}", hint="correct the line that is named") from cause
    except msgspec.ValidationError as cause:
        raise error(f"{source}: {cause}", hint="correct the field that is named (`$` is the file's top)") from cause
    except (ValueError, RecursionError) as cause:  # more digits than Python reads, or nested deeper than it goes
        raise error(
            f"{source} has a number or nesting that is beyond reading", hint="write plain values of sensible size"
        ) from cause


def decode_json(data: bytes, kind: type[T], *, source: str, error: type[EdgeFleetError] = SettingError) -> T:
    """Decode JSON into ``kind``; ``source`` is what the user calls it.

    Raises:
        EdgeFleetError: of class ``error``, with the path of the field that is wrong.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as cause:
        raise error(f"{source}: {cause}", hint="correct the field that is named (`$` is the document)") from cause
