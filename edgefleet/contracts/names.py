# SPDX-License-Identifier: Apache-2.0
"""Names and versions as they appear in paths, topics and metadata: constrained once, used everywhere."""

import re
from typing import Annotated

import msgspec

#: A product, device, tenant or profile: safe in a file name, a URL, an MQTT topic and a TUF path pattern.
NAME_PATTERN = r"^[a-z0-9][a-z0-9_-]{0,62}\Z"
#: Semantic version 2.0.0 without build metadata (``+`` is not safe in an MQTT topic).
VERSION_PATTERN = (
    r"^(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})\.(0|[1-9][0-9]{0,8})(-[0-9a-z]{1,16}(\.[0-9a-z]{1,16}){0,4})?\Z"
)
SHA256_PATTERN = r"^[0-9a-f]{64}\Z"

Name = Annotated[str, msgspec.Meta(pattern=NAME_PATTERN)]
Version = Annotated[str, msgspec.Meta(pattern=VERSION_PATTERN)]
Sha256 = Annotated[str, msgspec.Meta(pattern=SHA256_PATTERN)]

_NAME = re.compile(NAME_PATTERN)
_VERSION = re.compile(VERSION_PATTERN)


def is_name(text: str) -> bool:
    """Tell whether ``text`` may name a product, device, tenant or profile."""
    return _NAME.fullmatch(text) is not None


def is_version(text: str) -> bool:
    """Tell whether ``text`` is a semantic version without build metadata."""
    return _VERSION.fullmatch(text) is not None


def version_key(version: str) -> tuple[tuple[int, ...], bool, tuple[tuple[bool, int, str], ...]]:
    """Return a sort key with the precedence of semver 2.0.0 §11 (a pre-release sorts before its release)."""
    core, _, pre_release = version.partition("-")
    numbers = tuple(int(part) for part in core.split("."))
    identifiers = tuple(
        (not part.isdigit(), int(part) if part.isdigit() else 0, part) for part in pre_release.split(".") if part
    )
    return numbers, not pre_release, identifiers


def bundle_file_name(name: str, version: str, profile_id: str) -> str:
    """Return ``name-version-profile.bundle``, the one file name of a bundle."""
    return f"{name}-{version}-{profile_id}.bundle"


def bundle_target_path(name: str, version: str, profile_id: str) -> str:
    """Return the TUF target path of a bundle: ``name/version/name-version-profile.bundle``."""
    return f"{name}/{version}/{bundle_file_name(name, version, profile_id)}"


def acceptance_target_path(name: str, sha256: str) -> str:
    """Return the TUF target path of a product's acceptance examples: ``name/acceptance/<sha256>.npz``."""
    return f"{name}/acceptance/{sha256}.npz"
