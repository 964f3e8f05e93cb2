# SPDX-License-Identifier: Apache-2.0
"""Which bundles, or wheel sets of the agents' own software, make a release, under which policy."""

from collections.abc import Sequence

from edgefleet.contracts.bundle import Bundle
from edgefleet.contracts.errors import BundleError, PolicyError
from edgefleet.contracts.manifest import Manifest
from edgefleet.contracts.policy import Policy
from edgefleet.contracts.software import SOFTWARE_NAME, WheelSet, software_platform
from edgefleet.contracts.wheel_set import WheelSetFile
from fleet_server.core.trust.delegation import ReleaseFile


def check_files(files: Sequence[ReleaseFile], policy: Policy) -> tuple[str, str]:
    """Return the name and version of the release that these files make.

    Raises:
        BundleError, PolicyError: as :func:`check_release` or :func:`check_software`; or models and software are mixed.
    """
    software = [file.facts for file in files if isinstance(file, WheelSetFile)]
    manifests = [file.manifest for file in files if isinstance(file, Bundle)]
    if software and manifests:
        raise BundleError("a release is of models or of software, got both", hint="publish each by itself")
    return check_software(software, policy) if software else check_release(manifests, policy)


def check_software(sets: Sequence[WheelSet], policy: Policy) -> tuple[str, str]:
    """Return the name and version of the release that these wheel sets make.

    Raises:
        BundleError: one has another name than software has, they differ in version, or two are for one platform.
        PolicyError: the policy's gate waits for what software never shows.
    """
    stranger = next((facts.name for facts in sets if facts.name != SOFTWARE_NAME), None)
    if stranger is not None:
        raise BundleError(
            f"the wheel set is named '{stranger}', expected '{SOFTWARE_NAME}'",
            hint="build it with that name: agents take software under no other",
        )
    versions = sorted({facts.version for facts in sets})
    if len(versions) > 1:
        raise BundleError(
            f"the wheel sets are of several versions: {', '.join(versions)}", hint="publish each version by itself"
        )
    platforms = [software_platform(facts.machine, facts.python) for facts in sets]
    twice = sorted({platform for platform in platforms if platforms.count(platform) > 1})
    if twice:
        raise BundleError(f"two wheel sets are for '{twice[0]}'", hint="a release has one wheel set a platform")
    gate = policy.rollout.gate
    for field in ("minimum_requests", "minimum_labels", "minimum_compared"):
        if getattr(gate, field):
            raise PolicyError(
                f"the policy's gate waits for {field} = {getattr(gate, field)}, and software answers no requests",
                hint="publish software with a policy whose gate judges devices alone",
            )
    return SOFTWARE_NAME, versions[0]


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
    if manifests[0].name == SOFTWARE_NAME:
        raise BundleError(f"a model cannot be named '{SOFTWARE_NAME}'", hint="that is the agents' own software")
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
