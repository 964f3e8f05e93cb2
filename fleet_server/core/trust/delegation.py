# SPDX-License-Identifier: Apache-2.0
"""What approvers sign: the product's delegated metadata as they verified it last, plus exactly one release.

``verify`` and ``sign`` are python-tuf's; here is only which content may be signed at all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from edgefleet.contracts.bundle import Bundle
from edgefleet.contracts.errors import TrustError
from edgefleet.contracts.fit import Needs, needs_custom, needs_of, software_needs
from edgefleet.contracts.manifest import Manifest
from edgefleet.contracts.names import acceptance_target_path, bundle_target_path
from edgefleet.contracts.policy import PinnedPolicy
from edgefleet.contracts.profile import Profile
from edgefleet.contracts.software import software_platform, software_target_path
from edgefleet.contracts.tuf_custom import AcceptanceCustom, ReleaseCustom, SoftwareCustom, to_custom
from edgefleet.contracts.wheel_set import WheelSetFile
from fleet_server.core.trust.tuf_types import Metadata, TargetFile, Targets

APPROVAL_LIFETIME = timedelta(days=365)
_EXPIRY_TOLERANCE = timedelta(days=31)
NO_NEEDS = Needs()
Profiles = Callable[[str], Profile | None]
#: What a release is made of: bundles, or wheel sets of the agents' own software.
ReleaseFile = Bundle | WheelSetFile


@dataclass(frozen=True)
class ReleaseTarget:
    """One file that a release adds to the image repository."""

    path: str
    sha256: str
    size_bytes: int
    custom: ReleaseCustom | AcceptanceCustom | SoftwareCustom
    needs: Needs = NO_NEEDS

    @property
    def kind_of_device(self) -> str:
        """The profile, or for software the platform, that it is for; a release has one file for each."""
        if isinstance(self.custom, SoftwareCustom):
            return software_platform(self.custom.machine, self.custom.python)
        return self.custom.profile if isinstance(self.custom, ReleaseCustom) else ""


def production_role(product: str) -> str:
    """Return the name of a product's delegated role."""
    return f"production-{product}"


def no_profile(_profile_id: str) -> None:
    """Know no profile: a bundle's needs are then its runtime alone."""


def bundle_target(
    manifest: Manifest, sha256: str, size_bytes: int, policy: PinnedPolicy, profiles: Profiles = no_profile
) -> ReleaseTarget:
    """Return the target of one verified bundle under one policy; ``profiles`` finds a profile by its id."""
    custom = ReleaseCustom(
        name=manifest.name,
        version=manifest.version,
        profile=manifest.profile.id,
        compat_hash=manifest.profile.compat_hash,
        policy_sha256=policy.sha256,
        device_policy=policy.policy.device,
    )
    path = bundle_target_path(manifest.name, manifest.version, manifest.profile.id)
    needs = needs_of(manifest, profiles(manifest.profile.id))
    return ReleaseTarget(path, sha256, size_bytes, custom, needs)


def software_target(file: WheelSetFile, policy: PinnedPolicy) -> ReleaseTarget:
    """Return the target of one verified wheel set under one policy."""
    facts = file.facts
    custom = SoftwareCustom(
        name=facts.name,
        version=facts.version,
        machine=facts.machine,
        python=facts.python,
        policy_sha256=policy.sha256,
    )
    path = software_target_path(facts.version, facts.machine, facts.python)
    return ReleaseTarget(path, file.sha256, file.size_bytes, custom, software_needs(facts))


def file_target(file: ReleaseFile, policy: PinnedPolicy, profiles: Profiles = no_profile) -> ReleaseTarget:
    """Return the target of one of a release's files."""
    if isinstance(file, WheelSetFile):
        return software_target(file, policy)
    return bundle_target(file.manifest, file.sha256, file.size_bytes, policy, profiles)


def acceptance_target(manifest: Manifest) -> ReleaseTarget | None:
    """Return the target of the acceptance examples that a bundle carries a copy of, or None."""
    if manifest.acceptance is None:
        return None
    examples = manifest.acceptance
    size_bytes = next(member.size_bytes for member in manifest.members if member.path == examples.path)
    path = acceptance_target_path(manifest.name, examples.sha256)
    return ReleaseTarget(path, examples.sha256, size_bytes, AcceptanceCustom(name=manifest.name))


def release_targets(
    files: Sequence[ReleaseFile], policy: PinnedPolicy, profiles: Profiles = no_profile
) -> list[ReleaseTarget]:
    """Return all targets of a release, sorted by path: its files, and a model's acceptance examples once."""
    found = [file_target(file, policy, profiles) for file in files]
    bundles = [file for file in files if isinstance(file, Bundle)]
    found += [target for bundle in bundles if (target := acceptance_target(bundle.manifest)) is not None]
    return [target for _, target in sorted({target.path: target for target in found}.items())]


def add_release(base: Targets | None, targets: Sequence[ReleaseTarget], *, expires: datetime) -> Targets:
    """Return ``base`` (None: the first ever) plus the targets of one release, with the next version.

    Raises:
        TrustError: a file with that path is in the base already, or acceptance examples changed under one name.
    """
    known = dict(base.targets) if base is not None else {}
    for target in targets:
        new = _target_file(target)
        if target.path in known and (known[target.path] != new or not isinstance(target.custom, AcceptanceCustom)):
            raise TrustError(
                f"the image repository has '{target.path}' already", hint="publish the change under a new version"
            )
        known[target.path] = new
    version = base.version + 1 if base is not None else 1
    standing = dict(base.unrecognized_fields) if base is not None else {}  # what is recalled stays recalled
    return Targets(version=version, expires=expires, targets=known, unrecognized_fields=standing)


def check_same_but_expiry(proposed: Targets, own: Targets) -> None:
    """Refuse a proposal that is anything else than what this approver would build.

    Raises:
        TrustError: it differs in more than its expiry, or its expiry lies more than 31 days off.
    """
    differences = describe_differences(own, proposed)
    if differences:
        raise TrustError(
            f"the proposal differs from the release that was verified here: {'; '.join(differences)}",
            hint="do not sign; ask the other approver what was proposed",
        )
    check_expiry(proposed, own.expires)


def check_expiry(proposed: Targets, expected: datetime) -> None:
    """Refuse a proposal that would expire at once, or hardly ever.

    Raises:
        TrustError: its expiry lies more than 31 days off.
    """
    if abs(proposed.expires - expected) > _EXPIRY_TOLERANCE:
        raise TrustError(
            f"the proposal expires on {proposed.expires:%Y-%m-%d}, expected about {expected:%Y-%m-%d}",
            hint="do not sign; publish and propose the release again",
        )


def describe_differences(old: Targets, new: Targets) -> list[str]:
    """Return each difference between two metadata (expiry apart) in words; equal content gives an empty list."""
    lines = [f"adds {path}" for path in sorted(set(new.targets) - set(old.targets))]
    lines += [f"takes out {path}" for path in sorted(set(old.targets) - set(new.targets))]
    both = sorted(set(old.targets) & set(new.targets))
    lines += [f"changes {path}" for path in both if old.targets[path] != new.targets[path]]
    ours, theirs = old.to_dict(), new.to_dict()
    for field in sorted(set(ours) | set(theirs)):
        if field not in ("targets", "expires") and ours.get(field) != theirs.get(field):
            lines.append(f"changes {field} from {ours.get(field)} to {theirs.get(field)}")
    return lines


def read_targets(data: bytes, what: str) -> Metadata[Targets]:
    """Parse targets metadata (no signature is checked here).

    Raises:
        TrustError: it is no targets metadata.
    """
    try:
        metadata = Metadata[Targets].from_bytes(data)
    except Exception as error:  # python-tuf raises its DeserializationError, and others on hostile input
        raise TrustError(f"{what} is not TUF metadata: {error}", hint="build it with 'edgefleet'") from error
    if not isinstance(metadata.signed, Targets):
        raise TrustError(f"{what} is not targets metadata", hint="build it with 'edgefleet'")
    return metadata


def _target_file(target: ReleaseTarget) -> TargetFile:
    """Return what is signed of a target; what software needs stands in its own facts already."""
    needs = NO_NEEDS if isinstance(target.custom, SoftwareCustom) else target.needs
    return TargetFile(
        length=target.size_bytes,
        hashes={"sha256": target.sha256},
        path=target.path,
        unrecognized_fields={"custom": to_custom(target.custom) | needs_custom(needs)},
    )
