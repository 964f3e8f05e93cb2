# SPDX-License-Identifier: Apache-2.0
"""Publishing metadata, cut off between any two of its steps, ends published after the next start."""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner

from edgefleet.contracts.canonical import sha256_file
from edgefleet.contracts.errors import ConflictError, TrustError
from edgefleet.contracts.tuf_custom import Standing, to_custom
from fleet_server.adapters.keys.key_files import create_key, load_signer
from fleet_server.adapters.keys.provision import ProductDelegation, delegate_product
from fleet_server.adapters.keys.signer_process import SignerProcess
from fleet_server.adapters.releases.approval_desk import ApprovalDesk
from fleet_server.adapters.releases.image_repository import ImageRepository
from fleet_server.adapters.releases.release_store import ReleaseStore
from fleet_server.adapters.storage.data_folder import DataFolder
from fleet_server.adapters.storage.database import Database
from fleet_server.core.trust.delegation import APPROVAL_LIFETIME, add_release, release_targets
from fleet_server.core.trust.tuf_types import Delegations, Metadata, Snapshot, Targets, Timestamp


def test_what_is_recalled_stays_recalled_in_the_next_release() -> None:
    expires = datetime(2100, 1, 1, tzinfo=UTC)
    said = to_custom(Standing(minimum_release={"digits": "2.0.0"}))
    base = Targets(version=4, expires=expires, targets={}, unrecognized_fields=dict(said))
    following = add_release(base, [], expires=expires)
    assert (following.version, following.unrecognized_fields) == (5, said)
    assert add_release(None, [], expires=expires).unrecognized_fields == {}
    signer = CryptoSigner.generate_ed25519()
    top = Metadata(base)
    top.sign(signer)
    delegated = delegate_product(top.to_bytes(), signer, ProductDelegation("digits", [signer.public_key], 1))
    assert Metadata[Targets].from_bytes(delegated).signed.unrecognized_fields == said


class PowerCutError(Exception):
    """Stands for a process that dies here."""


class FailingDatabase(Database):
    """A database whose process dies at the end of the n-th write from now on (0: never)."""

    dies_at = 0

    @contextmanager
    def write(self) -> Iterator[Any]:
        with super().write() as connection:
            yield connection
            if self.dies_at:
                self.dies_at -= 1
                if self.dies_at == 0:
                    raise PowerCutError


class Site:
    """A server's publishing half, without HTTP."""

    def __init__(self, folder: Path) -> None:
        self.folder = DataFolder(folder / "srv")
        self.open()

    def open(self) -> None:
        self.signer = SignerProcess(self.folder.signer)
        self.database = FailingDatabase(self.folder.database_path)
        self.images = ImageRepository(self.database, self.folder.targets, self.signer, time.time)
        self.releases = ReleaseStore(self.database, self.images, self.folder.staging, time.time)
        self.desk = ApprovalDesk(self.database, self.images, self.releases, time.time)

    def close(self) -> None:
        self.signer.close()
        self.database.close()

    def restart(self) -> None:
        """Do what a server does at its start."""
        self.close()
        self.open()
        self.desk.finish_approvals()
        self.images.publish_if_due()

    def state(self) -> str:
        with self.database.read() as connection:
            return str(connection.exec_driver_sql("SELECT state FROM release").scalar())

    def listed(self) -> dict[str, int]:
        """Return what a client would find: the roles' versions, through timestamp and snapshot."""
        timestamp = Metadata[Timestamp].from_bytes(self.images.newest("timestamp") or b"").signed
        snapshot = Metadata[Snapshot].from_bytes(self.images.newest("snapshot") or b"").signed
        assert timestamp.snapshot_meta.version == snapshot.version
        return {name: meta.version for name, meta in snapshot.meta.items()}


@pytest.fixture(name="site")
def _site(initialised: list[Path], tmp_path: Path) -> Iterator[Site]:
    shutil.copytree(initialised[0], tmp_path / "fleet")
    site = Site(tmp_path / "fleet")
    yield site
    site.close()


def propose(site: Site, tmp_path: Path, make_bundle: Any, policy_text: str) -> bytes:
    """Delegate, publish a draft, and return delegated metadata with both approvals."""
    keys = [create_key(tmp_path / "keys", name) for name in ("ada", "bob")]
    offline = load_signer(tmp_path / "fleet" / "admin" / "keys", "targets")
    delegation = ProductDelegation("digits", [key.public_key for key in keys], 2)
    site.images.publish({"targets": delegate_product(site.images.newest("targets") or b"", offline, delegation)})
    bundle = make_bundle(tmp_path)
    staged = site.folder.staging / "x"
    shutil.copy(bundle, staged)

    sha256 = sha256_file(staged)
    staged.rename(site.releases.bundle_path(sha256))
    site.releases.publish([sha256], policy_text.encode(), "ada")
    targets = release_targets(site.releases.files("digits", "1.0.0"), site.releases.pinned_policy("digits", "1.0.0"))
    expires = datetime.now(UTC).replace(microsecond=0) + APPROVAL_LIFETIME
    metadata = Metadata(add_release(None, targets, expires=expires))
    for key in keys:
        metadata.sign(key, append=True)
    return metadata.to_bytes()


@pytest.mark.parametrize("write", [1, 2, 3])
def test_an_approval_cut_off_at_any_write_is_whole_after_a_restart(
    write: int, site: Site, tmp_path: Path, make_bundle: Any, policy_text: str
) -> None:
    """The writes: 1 keeps the proposal, 2 stores the metadata and takes a version, 3 makes it served."""
    proposal = propose(site, tmp_path, make_bundle, policy_text)
    before = site.listed()
    site.database.dies_at = write
    with pytest.raises(PowerCutError):
        site.desk.propose("digits", "1.0.0", proposal, "bob")
    assert site.listed() == before, "nothing is served by halves"
    site.restart()
    if write == 1:  # the approver got no answer, and approves again
        assert site.state() == "draft"
        site.desk.propose("digits", "1.0.0", proposal, "bob")
    assert site.listed() == {**before, "production-digits.json": 1}
    assert site.state() == "approved"
    site.restart()
    assert site.listed() == {**before, "production-digits.json": 1}


def test_a_proposal_without_its_threshold_is_kept_and_not_published(
    site: Site, tmp_path: Path, make_bundle: Any, policy_text: str
) -> None:
    proposal = Metadata[Any].from_bytes(propose(site, tmp_path, make_bundle, policy_text))
    first = dict(list(proposal.signatures.items())[:1])
    both = proposal.to_bytes()
    proposal.signatures.clear()
    proposal.signatures.update(first)
    record = site.desk.propose("digits", "1.0.0", proposal.to_bytes(), "ada")
    assert (record.state, record.signatures, record.threshold) == ("awaiting-approval", 1, 2)
    with pytest.raises(TrustError, match="is not signed by its threshold of keys"):
        site.images.publish({"production-digits": proposal.to_bytes()})
    assert "production-digits.json" not in site.listed()
    site.restart()
    assert site.state() == "awaiting-approval"
    assert site.desk.propose("digits", "1.0.0", both, "bob").state == "approved"
    with pytest.raises(ConflictError, match="has version 1, expected 2"):
        site.images.publish({"production-digits": both})


def test_a_proposal_of_people_who_may_no_longer_approve_keeps_no_server_from_starting(
    site: Site, tmp_path: Path, make_bundle: Any, policy_text: str
) -> None:
    proposal = Metadata[Any].from_bytes(propose(site, tmp_path, make_bundle, policy_text))
    del proposal.signatures[next(iter(proposal.signatures))]
    site.desk.propose("digits", "1.0.0", proposal.to_bytes(), "ada")
    others = [create_key(tmp_path / "others", name).public_key for name in ("eve", "kim")]
    offline = load_signer(tmp_path / "fleet" / "admin" / "keys", "targets")
    newest = site.images.newest("targets") or b""
    site.images.publish({"targets": delegate_product(newest, offline, ProductDelegation("digits", others, 2))})
    site.restart()
    assert site.state() == "awaiting-approval"
    assert "production-digits.json" not in site.listed()


@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [
        (lambda signed: setattr(signed, "expires", datetime(9999, 1, 1, tzinfo=UTC)), "expires on 9999-01-01"),
        (lambda signed: setattr(signed, "expires", datetime(2020, 1, 1, tzinfo=UTC)), "expires on 2020-01-01"),
        (lambda signed: setattr(signed, "version", 7), "changes version from 1 to 7"),
        (lambda signed: signed.targets.update({"digits/1/x": next(iter(signed.targets.values()))}), "adds digits/1/x"),
        (lambda signed: setattr(next(iter(signed.targets.values())), "length", 1), "changes digits/1.0.0/"),
        (lambda signed: signed.targets.clear(), "takes out digits/1.0.0/"),
        (lambda signed: signed.unrecognized_fields.update({"x": 1}), "changes x from None to 1"),
        (
            lambda signed: setattr(signed, "delegations", Delegations({}, {})),
            "changes delegations from None to {",
        ),
    ],
    ids=["hardly ever", "expired", "version", "extra", "length", "fewer", "field", "delegation"],
)
def test_two_signatures_make_nothing_of_a_tampered_proposal(
    tamper: Any, sentence: str, site: Site, tmp_path: Path, make_bundle: Any, policy_text: str
) -> None:
    metadata = Metadata[Any].from_bytes(propose(site, tmp_path, make_bundle, policy_text))
    tamper(metadata.signed)
    metadata.signatures.clear()
    for name in ("ada", "bob"):
        metadata.sign(load_signer(tmp_path / "keys", name), append=True)
    with pytest.raises(TrustError) as refused:
        site.desk.propose("digits", "1.0.0", metadata.to_bytes(), "bob")
    assert sentence in refused.value.message
    assert site.state() == "draft"


def test_what_a_crash_left_of_an_upload_goes_at_the_next_start_and_whole_bundles_stay(site: Site) -> None:
    part, bundle = site.folder.staging / f".{'a' * 64}.0badcafe.part", site.releases.bundle_path("b" * 64)
    for path in (part, bundle):
        path.write_bytes(b"uploaded")
    site.restart()
    assert (part.exists(), bundle.exists()) == (False, True)
