# SPDX-License-Identifier: Apache-2.0
"""Find and read profiles: those that come with EdgeFleet, by id, and a user's own, by path."""

from importlib.resources import files
from pathlib import Path

from edgefleet.contracts.decoding import decode_toml
from edgefleet.contracts.errors import FileMissingError, InputError, ProfileError
from edgefleet.contracts.profile import Profile
from firmware_profiles.rules import broken_rules

_BOARDS = files("firmware_profiles") / "boards"
_SUFFIX = ".toml"


def list_profiles() -> tuple[Profile, ...]:
    """Return the profiles that come with EdgeFleet, sorted by id."""
    stems = sorted(entry.name.removesuffix(_SUFFIX) for entry in _BOARDS.iterdir() if entry.name.endswith(_SUFFIX))
    return tuple(read_profile((_BOARDS / f"{stem}{_SUFFIX}").read_bytes(), source=f"{stem}{_SUFFIX}") for stem in stems)


def load_profile(id_or_path: str) -> Profile:
    """Load a profile by its id, or a user's own by the path of its file (it ends in ``.toml`` or has a ``/``).

    Raises:
        InputError: there is no profile with this id.
        FileMissingError: there is no such file.
        ProfileError: the file breaks the schema or a rule.
    """
    if id_or_path.endswith(_SUFFIX) or "/" in id_or_path:
        return _load_file(Path(id_or_path))
    board = _BOARDS / f"{id_or_path}{_SUFFIX}"
    if not board.is_file():
        known = ", ".join(profile.id for profile in list_profiles())
        raise InputError(
            f"there is no profile '{id_or_path}', only {known}",
            hint="name one of these, or a board's own file: --profile FILE.toml",
        )
    return read_profile(board.read_bytes(), source=board.name)


def read_profile(data: bytes, *, source: str) -> Profile:
    """Read and check one profile; ``source`` is what the user calls the file.

    Raises:
        ProfileError: the file is not TOML, breaks the schema, or contradicts itself.
    """
    profile = decode_toml(data, Profile, source=source, error=ProfileError)
    broken = broken_rules(profile)
    if broken:
        raise ProfileError(
            f"{source}: {'; '.join(broken)}",
            hint="correct the fields that are named, then: edgefleet profiles validate",
        )
    return profile


def _load_file(path: Path) -> Profile:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileMissingError(
            f"cannot read the profile '{path}': {error.strerror or error}", hint="check the path and its permissions"
        ) from error
    return read_profile(data, source=path.name)
