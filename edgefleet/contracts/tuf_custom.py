# SPDX-License-Identifier: Apache-2.0
"""What EdgeFleet adds to TUF metadata, under the key ``edgefleet``.

In the image repository each target's ``custom`` field carries a :class:`ReleaseCustom`.
In the director repository the signed targets metadata itself carries an :class:`Assignment`, so that an empty
assignment ("nothing for you") names its device as well.
"""

from typing import Any, TypeVar

import msgspec

from edgefleet.contracts.errors import TrustError
from edgefleet.contracts.manifest import Fact, Natural
from edgefleet.contracts.names import Name, Sha256, Version
from edgefleet.contracts.policy import DevicePolicy

CUSTOM_KEY = "edgefleet"
IMAGE_REPOSITORY = "image"
DIRECTOR_REPOSITORY = "director"


class ReleaseCustom(Fact, frozen=True, kw_only=True, tag="bundle", tag_field="kind"):
    """Facts about a bundle, signed by the product's approvers."""

    name: Name
    version: Version
    profile: Name
    compat_hash: Sha256
    policy_sha256: Sha256
    device_policy: DevicePolicy


class AcceptanceCustom(Fact, frozen=True, kw_only=True, tag="acceptance", tag_field="kind"):
    """Marks a target as a product's acceptance examples."""

    name: Name


class Assignment(Fact, frozen=True, kw_only=True):
    """The director's order for one device: run the one target listed beside it, or (none listed) nothing new.

    ``counter`` grows with each change of the order; a device refuses a lower one than it has seen.
    """

    tenant: Name
    device: Name
    profile: Name
    counter: Natural


def to_custom(value: ReleaseCustom | AcceptanceCustom | Assignment) -> dict[str, Any]:
    """Return the plain JSON types that go into the metadata, including the key ``edgefleet``.

    TUF's canonical JSON has no fractions: they travel as decimal text, and are read back as numbers.
    """
    return {CUSTOM_KEY: _without_fractions(msgspec.to_builtins(value))}


def read_target_custom(custom: object) -> ReleaseCustom | AcceptanceCustom:
    """Read a target's ``custom`` field.

    Raises:
        TrustError: there is none, or it breaks the schema.
    """
    return _read(custom, ReleaseCustom | AcceptanceCustom, "the target's custom field")  # type: ignore[arg-type]


def read_assignment(unrecognized_fields: object) -> Assignment:
    """Read the assignment out of the director's targets metadata.

    Raises:
        TrustError: there is none, or it breaks the schema.
    """
    return _read(unrecognized_fields, Assignment, "the director's targets metadata")


def _without_fractions(value: Any) -> Any:  # any JSON value
    if isinstance(value, dict):
        return {key: _without_fractions(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_fractions(item) for item in value]
    return repr(value) if isinstance(value, float) else value


T = TypeVar("T")


def _read(holder: object, kind: type[T], what: str) -> T:
    if not isinstance(holder, dict) or CUSTOM_KEY not in holder:
        raise TrustError(f"{what} has no '{CUSTOM_KEY}' entry", hint="publish with 'edgefleet releases publish'")
    try:
        return msgspec.convert(holder[CUSTOM_KEY], kind, strict=False)
    except msgspec.ValidationError as error:
        raise TrustError(f"{what} has a malformed '{CUSTOM_KEY}' entry: {error}", hint="update the agent") from error
