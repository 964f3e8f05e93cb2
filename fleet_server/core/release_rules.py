# SPDX-License-Identifier: Apache-2.0
"""Which bundles make a release, under which policy."""

from collections.abc import Sequence

from edgefleet.contracts.errors import BundleError, PolicyError
from edgefleet.contracts.manifest import Manifest
from edgefleet.contracts.policy import Policy


def check_release(manifests: Sequence[Manifest], policy: Policy) -> tuple[str, str]:
    """Return the name and version of the release that these bundles make.

    Raises:
        BundleError: there is none, they differ in name or version, or two are for one profile.
        PolicyError: the policy pins acceptance examples, and a bundle has no copy of exactly these; or nothing has run
            a bundle's model yet, and the policy does not allow that.
    """
    if not manifests:
        raise BundleError("a release needs a bundle, got none", hint="name at least one bundle")
    names = sorted({f"{manifest.name} {manifest.version}" for manifest in manifests})
    if len(names) > 1:
        raise BundleError(
            f"the bundles are of several releases: {', '.join(names)}", hint="publish each release by itself"
        )
    profiles = [manifest.profile.id for manifest in manifests]
    twice = sorted({profile for profile in profiles if profiles.count(profile) > 1})
    if twice:
        raise BundleError(f"two bundles are for the profile '{twice[0]}'", hint="a release has one bundle a profile")
    for manifest in manifests:
        _check_acceptance(manifest, policy)
        _check_execution(manifest, policy)
    return manifests[0].name, manifests[0].version


def _check_acceptance(manifest: Manifest, policy: Policy) -> None:
    pin = policy.device.acceptance
    if pin is None:
        return
    got = manifest.acceptance.sha256 if manifest.acceptance is not None else "none"
    if got != pin.sha256:
        raise PolicyError(
            f"the policy pins the acceptance examples {pin.sha256}, and the bundle for "
            f"'{manifest.profile.id}' carries {got}",
            hint="convert with --acceptance and the product's own examples",
        )


def _check_execution(manifest: Manifest, policy: Policy) -> None:
    if manifest.execution == "compiled-not-run" and not policy.allow_compiled_not_run:
        raise PolicyError(
            f"the bundle for '{manifest.profile.id}' is compiled-not-run: nothing has run its model as the board will",
            hint="try it on a real board, then publish it with allow_compiled_not_run = true in the policy",
        )
