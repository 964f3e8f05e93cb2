# SPDX-License-Identifier: Apache-2.0
"""What EdgeFleet adds to TUF metadata, under the key ``edgefleet``.

In the image repository each target's ``custom`` field carries a :class:`ReleaseCustom` (or says what else it is), and
each targets role may carry a :class:`Standing`: what its signers say of all releases of the names that it may sign.
In the director repository the signed targets metadata itself carries an :class:`Assignment`, so that an empty
assignment ("nothing for you") names its device as well.
"""

from typing import Annotated, Any, TypeVar

import msgspec

from edgefleet.contracts.errors import TrustError
from edgefleet.contracts.manifest import Fact, Natural
from edgefleet.contracts.names import Name, Sha256, Version
from edgefleet.contracts.policy import DevicePolicy
from edgefleet.contracts.software import Machine, PythonVersion

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


class SettingsCustom(Fact, frozen=True, kw_only=True, tag="settings", tag_field="kind"):
    """Marks a target as settings for devices: a small TOML file that the director may order."""

    name: Name


class SoftwareCustom(Fact, frozen=True, kw_only=True, tag="software", tag_field="kind"):
    """Facts about a wheel set of the agent's own software, signed by its approvers.

    A director lists one only for agents that say that their orders may: older ones refuse an order that they cannot
    read (:attr:`edgefleet.contracts.enrolment.HardwareFacts.order_kinds`).
    """

    name: Name
    version: Version
    machine: Machine
    python: PythonVersion
    policy_sha256: Sha256


class RecallOrder(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """What may not run any more: bundles by model name, everything ``below`` a version, or ``every_model``.

    Only the top-level targets role may say ``every_model``; a delegated role speaks of the names that it may sign.
    """

    bundles: Annotated[dict[Name, tuple[Sha256, ...]], msgspec.Meta(max_length=1000)] = msgspec.field(
        default_factory=dict
    )
    below: Annotated[dict[Name, Version], msgspec.Meta(max_length=1000)] = msgspec.field(default_factory=dict)
    every_model: bool = False


class Standing(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """What the signers of a targets role of the image repository say beside its targets, in its own signed part.

    ``minimum_release`` is a floor by model name below which nothing is installed any more; a device never lowers it.
    ``signed_at`` (Unix seconds) tells a device without a clock that it is later than that.
    """

    minimum_release: Annotated[dict[Name, Version], msgspec.Meta(max_length=1000)] = msgspec.field(default_factory=dict)
    recalled: RecallOrder = RecallOrder()
    signed_at: Natural | None = None


class Assignment(Fact, frozen=True, kw_only=True, omit_defaults=True):
    """The director's order for one device: run the targets listed beside it, or (none listed) nothing new.

    ``counter`` grows with each change of the order; a device refuses a lower one than it has seen. ``lift`` names
    bundles whose quarantine on this device ends. A device that saw a lower ``standing`` than this one asks the image
    repository at once, even when no target is listed, for something was recalled.
    ``renewal_grace_until`` (Unix seconds) lets the device renew a certificate that has lapsed until then.
    """

    tenant: Name
    device: Name
    profile: Name
    counter: Natural
    renewal_grace_until: Natural | None = None
    lift: Annotated[tuple[Sha256, ...], msgspec.Meta(max_length=1000)] = ()
    standing: Natural = 0


TargetCustom = ReleaseCustom | AcceptanceCustom | SettingsCustom | SoftwareCustom


def to_custom(value: TargetCustom | Assignment | Standing) -> dict[str, Any]:
    """Return the plain JSON types that go into the metadata, including the key ``edgefleet``.

    TUF's canonical JSON has no fractions: they travel as decimal text, and are read back as numbers.
    """
    return {CUSTOM_KEY: _without_fractions(msgspec.to_builtins(value))}


def read_target_custom(custom: object) -> TargetCustom:
    """Read a target's ``custom`` field.

    Raises:
        TrustError: there is none, or it breaks the schema.
    """
    return _read(custom, TargetCustom, "the target's custom field")  # type: ignore[arg-type]


def read_assignment(unrecognized_fields: object) -> Assignment:
    """Read the assignment out of the director's targets metadata.

    Raises:
        TrustError: there is none, or it breaks the schema.
    """
    return _read(unrecognized_fields, Assignment, "the director's targets metadata")


def read_standing(unrecognized_fields: object, role: str) -> Standing:
    """Read what a targets role of the image repository says beside its targets; most say nothing.

    Raises:
        TrustError: it breaks the schema: a floor or recall that cannot be read is none that may be passed over.
    """
    if isinstance(unrecognized_fields, dict) and CUSTOM_KEY not in unrecognized_fields:
        return Standing()
    return _read(unrecognized_fields, Standing, f"the metadata of '{role}'")


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
