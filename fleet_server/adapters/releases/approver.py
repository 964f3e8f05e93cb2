# SPDX-License-Identifier: Apache-2.0
"""An approval, on the approver's own machine: verify, rebuild, compare, sign.

1. Refresh the image repository with python-tuf's client; its state stays in HOME/trusted, so a server cannot show an
   older one later.
2. Download the release's bundles and policy, and verify them again.
3. Build the delegated metadata: the last verified version plus exactly this release.
4. If another approver proposed it already, check that the proposal is the same but for its expiry.
5. Sign, and send it back.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tuf.api.exceptions import DownloadError, DownloadHTTPError, RepositoryError

from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.errors import EdgeFleetError, NotFoundError, StorageError, TrustError, UnreachableError
from edgefleet.contracts.names import bundle_target_path
from edgefleet.contracts.policy import PinnedPolicy, read_policy
from fleet_server.adapters.access.api_client import ApiClient, segment
from fleet_server.adapters.access.home import Home
from fleet_server.adapters.releases.installed_profiles import installed_profile
from fleet_server.adapters.releases.release_files import open_release_file
from fleet_server.adapters.storage.private_files import write_file
from fleet_server.core.trust.delegation import (
    APPROVAL_LIFETIME,
    ReleaseFile,
    add_release,
    check_same_but_expiry,
    describe_differences,
    production_role,
    read_targets,
    release_targets,
)
from fleet_server.core.trust.release_rules import check_files
from fleet_server.core.trust.tuf_types import FetcherInterface, Metadata, Root, Signer, Snapshot, Targets, Updater

_ROOT = "image-root.json"


@dataclass(frozen=True)
class PreparedApproval:
    """What would be signed, and what it changes, in words; nothing is signed yet."""

    name: str
    version: str
    metadata: Metadata[Targets]
    changes: tuple[str, ...]
    earlier_signatures: int


def pin_root(client: ApiClient, home: Home, given: bytes | None) -> str:
    """Keep the image repository's root as this person's trust anchor; return its SHA-256.

    ``given`` comes from a trusted hand; without it, the server's own is trusted on this first use. A root that is
    pinned already stays.
    """
    path = home.trusted / _ROOT
    if given is None and path.exists():
        return sha256_hex(path.read_bytes())
    content = given if given is not None else client.get_bytes("/api/v1/roots/image") or b""
    try:
        root = Metadata[Root].from_bytes(content)
        root.signed.verify_delegate("root", root.signed_bytes, root.signatures)
    except (RepositoryError, ValueError) as error:
        raise TrustError(f"the root metadata is not valid: {error}", hint="get the root file again") from error
    write_file(path, content)
    return sha256_hex(content)


def prepare_approval(client: ApiClient, home: Home, name: str, version: str) -> PreparedApproval:
    """Do steps 1 to 4.

    Raises:
        InputError: no release can have this name or version.
        TrustError: something does not verify, or the proposal is another one.
        BundleError, PolicyError: a bundle or the policy breaks a rule.
    """
    release = f"releases/{segment(name)}/{segment(version)}"
    base = _verified_base(client, home, name, version)
    with tempfile.TemporaryDirectory(prefix="edgefleet-") as folder:
        files, policy = _fetch_release(client, Path(folder), name, version)
        targets = release_targets(files, policy, installed_profile)
    expires = datetime.now(UTC).replace(microsecond=0) + APPROVAL_LIFETIME
    own = Metadata(add_release(base, targets, expires=expires))
    changes = describe_differences(base if base is not None else Targets(), own.signed)
    proposal = client.get_bytes(f"/api/v1/{release}/proposal")
    if proposal is not None:
        proposed = read_targets(proposal, "the proposal")
        if proposed.signed.version == own.signed.version:  # else it was built on a base that is no longer the newest
            check_same_but_expiry(proposed.signed, own.signed)
            return PreparedApproval(name, version, proposed, tuple(changes), len(proposed.signatures))
    return PreparedApproval(name, version, own, tuple(changes), 0)


def send_approval(client: ApiClient, prepared: PreparedApproval, signer: Signer) -> dict[str, Any]:
    """Sign, send, and return the release as the server then shows it."""
    prepared.metadata.sign(signer, append=True)
    answer: dict[str, Any] = client.put_bytes(
        f"releases/{prepared.name}/{prepared.version}/proposal", prepared.metadata.to_bytes()
    )
    return answer


class _ApiFetcher(FetcherInterface):
    """Lets python-tuf's client read through the authenticated API."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            yield self._client.get_bytes(unquote(urlsplit(url).path)) or b""
        except NotFoundError as error:
            raise DownloadHTTPError(error.message, 404) from error
        except EdgeFleetError as error:
            raise DownloadError(error.message) from error


def _verified_base(client: ApiClient, home: Home, name: str, version: str) -> Targets | None:
    """Return the product's delegated metadata as verified now; None: it has none yet."""
    root_path = home.trusted / _ROOT
    if not root_path.exists():
        pin_root(client, home, None)
    folder = home.trusted / "metadata"
    role = production_role(name)
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        updater = Updater(
            metadata_dir=str(folder),
            metadata_base_url=f"{client.server}/image/metadata/",
            fetcher=_ApiFetcher(client),
            bootstrap=root_path.read_bytes(),
        )
        updater.refresh()
        listed = Metadata[Snapshot].from_file(str(folder / "snapshot.json")).signed.meta
        if f"{role}.json" not in listed:
            return None
        updater.get_targetinfo(bundle_target_path(name, version, "any"))
    except RepositoryError as error:
        raise TrustError(
            f"the image repository does not verify: {error}", hint="do not sign; find out what changed on the server"
        ) from error
    except DownloadError as error:
        raise UnreachableError(f"the image repository cannot be read: {error}", hint="try again") from error
    except OSError as error:
        raise StorageError(
            f"cannot keep what was verified in '{folder}': {error.strerror or error}",
            hint="check free space and permissions",
        ) from error
    return read_targets((folder / f"{role}.json").read_bytes(), "the verified metadata").signed


def _fetch_release(client: ApiClient, folder: Path, name: str, version: str) -> tuple[list[ReleaseFile], PinnedPolicy]:
    """Download and verify a release, and check that it is the one that was asked for."""
    record = client.get(f"releases/{name}/{version}")
    policy_bytes = client.get_bytes(f"/api/v1/releases/{name}/{version}/policy") or b""
    policy = read_policy(policy_bytes, source="the release's policy")
    files: list[ReleaseFile] = []
    for described in record["bundles"]:
        path = folder / f"{described['sha256']}.bundle"
        client.download_bundle(described["sha256"], path)
        files.append(open_release_file(path))
    if check_files(files, policy.policy) != (name, version):
        raise TrustError(f"the server's bundles are not of {name} {version}", hint="do not sign; look at the server")
    return files, policy
