# SPDX-License-Identifier: Apache-2.0
"""The settings file: TOML by the schema of :class:`AgentSettings`; what is wrong is refused by its name.

A key that is not known is told with the right one that is nearest to it, a wrong value with its path.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import msgspec

from device_agent.core.settings.agent_settings import AgentSettings as AgentSettings
from edgefleet.contracts.decoding import decode_toml
from edgefleet.contracts.errors import SettingError
from edgefleet.contracts.files import read_file

_HINT = "see: edgefleet-agent config schema"
#: No settings are as large.
_LIMIT_BYTES = 1 << 20
_LOCATED = re.compile(r"(?P<what>.*) - at `\$\.?(?P<path>.*)`", re.DOTALL)
_SHOWN_CHARACTERS = 80


def read_settings(path: Path | None) -> AgentSettings:
    """Read the settings file, or return the defaults.

    Raises:
        FileMissingError: there is no such file, or it is none or too large.
        SettingError: it is not TOML, or a key or value is wrong.
    """
    if path is None:
        return AgentSettings()
    data = read_file(path, "the settings", hint="check the path given to --config", limit_bytes=_LIMIT_BYTES)
    return decode_settings(data, source=str(path))


def decode_settings(data: bytes, *, source: str) -> AgentSettings:
    """Decode settings; ``source`` is what the user calls the file.

    Raises:
        SettingError: it is not TOML, or a key or value is wrong.
    """
    try:
        return decode_toml(data, AgentSettings, source=source)
    except SettingError as error:
        if not isinstance(error.__cause__, msgspec.ValidationError):
            raise
        document = tomllib.loads(data.decode())  # it was TOML a moment ago
        what = "; ".join(_unknown_keys(document, AgentSettings, "")) or _wrong_value(document, str(error.__cause__))
        raise SettingError(f"{source}: {what}", hint=_HINT) from error


def settings_schema() -> dict[str, Any]:
    """Return the JSON Schema of the settings file."""
    return msgspec.json.schema(AgentSettings)


def _unknown_keys(document: Mapping[str, Any], kind: type[msgspec.Struct], prefix: str) -> Iterator[str]:
    fields = {field.encode_name: field for field in msgspec.structs.fields(kind)}
    for key, value in document.items():
        if key not in fields:
            yield f"there is no setting '{prefix}{key}'{_suggestion(key, list(fields), prefix)}"
        elif (inner := _structure(fields[key].type)) is not None:
            for place, part in _parts(value, f"{prefix}{key}"):
                yield from _unknown_keys(part, inner, f"{place}.")


def _parts(value: Any, place: str) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the tables of a value, a table itself or one of many, each with its place."""
    if isinstance(value, Mapping):
        return [(place, value)]
    many = value if isinstance(value, list) else []
    return [(f"{place}[{number}]", part) for number, part in enumerate(many) if isinstance(part, Mapping)]


def _suggestion(key: str, known: list[str], prefix: str) -> str:
    from difflib import get_close_matches  # only where something is wrong: an idle agent does not hold it

    near = get_close_matches(key.lower().replace("-", "_"), known, n=1, cutoff=0.4)
    return f"; the nearest is '{prefix}{near[0]}'" if near else ""


def _structure(kind: Any) -> type[msgspec.Struct] | None:
    """Return the structure inside a field's type."""
    if isinstance(kind, type):
        return kind if issubclass(kind, msgspec.Struct) else None
    return next((found for inner in get_args(kind) if (found := _structure(inner))), None)


def _wrong_value(document: Mapping[str, Any], told: str) -> str:
    """Say which value is wrong, what it is and what was expected."""
    found = _LOCATED.fullmatch(told)
    if found is None:
        return told
    what, path = found["what"], found["path"]
    value: Any = document
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    got = "" if value is None or ", got" in what or isinstance(value, Mapping) else f", got {value!r}"
    return f"'{path}': {what[:1].lower()}{what[1:]}{got}"[: 4 * _SHOWN_CHARACTERS]
