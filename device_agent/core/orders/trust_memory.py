# SPDX-License-Identifier: Apache-2.0
"""What a device remembers of verified metadata beside the metadata itself, so that losing them forgets nothing.

A floor only rises. A role's version falls only when its keys were replaced (then its signers start over). What a role
recalled holds until its next version says otherwise, or until the role above it no longer delegates to it.
"""

from collections.abc import Callable, Iterable, Mapping

import msgspec

from device_agent.core.recall import Recall
from edgefleet.contracts.manifest import Fact, Natural
from edgefleet.contracts.messages import RunningRelease
from edgefleet.contracts.names import Name, Version, version_key
from edgefleet.contracts.tuf_custom import RecallOrder, Standing

TOP_LEVEL = "targets"


class KnownRecall(RecallOrder, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=False):
    """A recall that was read and understood once, by this agent or by a later one."""


class RoleMemory(Fact, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """The last verified say of one targets role of the image repository: by which keys, and about which names."""

    version: Natural
    keys: str
    names: tuple[Name, ...] = ()
    recalled: KnownRecall = KnownRecall()


class TrustMemory(Fact, frozen=True, kw_only=True, forbid_unknown_fields=False):
    """Everything remembered. Times are Unix seconds; ``bound`` is a time that has passed for certain.

    What a later agent remembers beside this is passed over: better a part of its floors than none.
    """

    floor: dict[Name, Version] = msgspec.field(default_factory=dict)
    roles: dict[str, RoleMemory] = msgspec.field(default_factory=dict)
    names: tuple[Name, ...] = ()
    standing: Natural = 0
    looked_at: float = 0.0
    bound: float = 0.0


class Say(Fact, frozen=True, kw_only=True):
    """What one role says now, as verified: ``names`` are those of this search that it may sign."""

    role: str
    version: Natural
    keys: str
    names: tuple[Name, ...]
    standing: Standing


def older(memory: TrustMemory, say: Say) -> int | None:
    """Return the version that was seen before if the role's is lower, by the same keys; None if all is well."""
    known = memory.roles.get(say.role)
    return known.version if known is not None and known.keys == say.keys and say.version < known.version else None


def learned(memory: TrustMemory, says: Iterable[Say], *, searched: Iterable[str]) -> TrustMemory:
    """Return the memory after all roles that may speak of the ``searched`` names have spoken."""
    says, searched = list(says), set(searched)
    now = {say.role for say in says}
    roles = {
        role: known
        for role, known in memory.roles.items()
        if role in now or not known.names or not set(known.names) <= searched
    }
    floor = dict(memory.floor)
    for say in says:
        known = roles.get(say.role)
        names = {*say.names, *(known.names if known is not None else ())}
        recalled = KnownRecall(**msgspec.structs.asdict(say.standing.recalled))
        roles[say.role] = RoleMemory(version=say.version, keys=say.keys, names=tuple(sorted(names)), recalled=recalled)
        _raise_floor(floor, _of_names(say, say.standing.minimum_release))
    all_names = tuple(sorted({*memory.names, *searched}))
    return msgspec.structs.replace(memory, floor=floor, roles=roles, names=all_names)


def recall_of(memory: TrustMemory) -> Recall:
    """Return all recalls in force, of every role about the names that it may sign."""
    bundles: set[str] = set()
    below: dict[str, str] = {}
    every_model = False
    for role, known in memory.roles.items():
        may: Callable[[str], bool] = (lambda _: True) if role == TOP_LEVEL else known.names.__contains__
        bundles.update(sha for name, shas in known.recalled.bundles.items() if may(name) for sha in shas)
        _raise_floor(below, {name: version for name, version in known.recalled.below.items() if may(name)})
        every_model |= known.recalled.every_model and role == TOP_LEVEL
    return Recall(releases=tuple(sorted(bundles)), minimum=dict(sorted(below.items())), stopped=every_model)


def below_floor(memory: TrustMemory, release: RunningRelease) -> str:
    """Return a sentence if a release is older than its name's floor; empty if not."""
    floor = memory.floor.get(release.name)
    if floor is None or version_key(release.version) >= version_key(floor):
        return ""
    return f"{release.name} {release.version} is below the signed minimum {floor}"


def _of_names(say: Say, versions: Mapping[str, str]) -> dict[str, str]:
    if say.role == TOP_LEVEL:
        return dict(versions)
    return {name: version for name, version in versions.items() if name in say.names}


def _raise_floor(floor: dict[str, str], versions: Mapping[str, str]) -> None:
    for name, version in versions.items():
        if name not in floor or version_key(version) > version_key(floor[name]):
            floor[name] = version
