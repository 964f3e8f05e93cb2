# SPDX-License-Identifier: Apache-2.0
"""Which targets people have approved, as server and signer verify it, each by itself.

The order is TUF's: root, then targets, then the delegated roles.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tuf.api.exceptions import RepositoryError

from edgefleet.contracts.errors import TrustError
from edgefleet.contracts.software import SOFTWARE_NAME, software_target_path
from edgefleet.contracts.tuf_custom import ReleaseCustom, SoftwareCustom, read_target_custom
from fleet_server.core.trust.delegation import read_targets
from fleet_server.core.trust.tuf_types import Metadata, Root, TargetFile, Targets


@dataclass(frozen=True)
class ApprovedTarget:
    """One bundle, or wheel set, that a threshold of approvers has signed."""

    file: TargetFile
    release: ReleaseCustom | SoftwareCustom


@dataclass(frozen=True)
class ApprovedSet:
    """The verified targets metadata by role (``targets`` included), and all bundles and wheel sets in it by path."""

    roles: Mapping[str, Metadata[Targets]]
    bundles: Mapping[str, ApprovedTarget]


def verify_approvals(root: Metadata[Root], targets: bytes, delegated: Mapping[str, bytes]) -> ApprovedSet:
    """Verify every role's threshold of signatures, and collect the approved bundles.

    Raises:
        TrustError: a signature threshold is not met, or a role is not delegated to.
    """
    top = read_targets(targets, "the targets metadata")
    _verify(root.signed, "targets", top)
    roles: dict[str, Metadata[Targets]] = {"targets": top}
    for role, data in delegated.items():
        roles[role] = read_targets(data, f"the metadata of '{role}'")
        _verify(top.signed, role, roles[role])
    bundles = {
        target.file.path: target for role in delegated for target in _bundles(top.signed, role, roles[role].signed)
    }
    return ApprovedSet(roles, bundles)


def _verify(delegator: Root | Targets, role: str, metadata: Metadata[Any]) -> None:
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError) as error:
        raise TrustError(
            f"the metadata of '{role}' is not signed by its threshold of keys: {error}",
            hint="let the approvers sign with 'edgefleet releases approve'",
        ) from error


def _bundles(top: Targets, role: str, signed: Targets) -> list[ApprovedTarget]:
    """Return the bundles and wheel sets that the delegation of this role covers; others are as good as unsigned."""
    delegations = top.delegations
    assert delegations is not None  # noqa: S101 - verify_delegate found the role
    assert delegations.roles is not None  # noqa: S101
    delegation = delegations.roles[role]
    found = []
    for path, file in signed.targets.items():
        custom = read_target_custom(file.custom)
        if not delegation.is_delegated_path(path):
            continue
        if isinstance(custom, ReleaseCustom) or (isinstance(custom, SoftwareCustom) and _is_own_path(path, custom)):
            found.append(ApprovedTarget(file, custom))
    return found


def _is_own_path(path: str, custom: SoftwareCustom) -> bool:
    """Tell whether a wheel set lies where only the approvers of software may sign."""
    expected = software_target_path(custom.version, custom.machine, custom.python)
    return (custom.name, path) == (SOFTWARE_NAME, expected)
