# SPDX-License-Identifier: Apache-2.0
"""The signer process by itself: what it refuses, whatever the web process asks, also after a restart."""

import resource
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgefleet.contracts.bundle import open_bundle
from edgefleet.contracts.errors import PolicyError, StorageError, TrustError, UnreachableError
from edgefleet.contracts.policy import read_policy
from edgefleet.contracts.tuf_custom import SoftwareCustom, read_assignment
from fleet_server.adapters.keys.key_files import create_key, load_signer
from fleet_server.adapters.keys.provision import ProductDelegation, delegate_product, init_server
from fleet_server.adapters.keys.signer_process import SignerProcess
from fleet_server.adapters.storage.data_folder import DataFolder
from fleet_server.adapters.storage.database import Database
from fleet_server.core.trust.delegation import APPROVAL_LIFETIME, ReleaseTarget, add_release, release_targets
from fleet_server.core.trust.tuf_types import Metadata, Targets
from fleet_server.signer.journal import AssignmentSigned, CertificateIssued, Journal
from fleet_server.signer.requests import OpenRollout, SignAssignment, SignCertificate, SignSnapshot

TARGET = "digits/1.0.0/digits-1.0.0-linux-x86_64.bundle"
EXPIRES_AT = time.time() + 86400
POLICY = b"format_version = 1\n[rollout]\nwaves = [{ percent = 25.0, minimum_s = 60.0 }, { percent = 100.0 }]\n"


class Bench:
    """A signer with an approved release, and devices that it has certified."""

    def __init__(self, folder: Path, bundle: Path) -> None:
        self.folder = DataFolder(folder / "srv")
        init_server(self.folder, folder / "admin", tenant="acme", hosts=["127.0.0.1"])
        keys = [create_key(folder / "keys", name) for name in ("ada", "bob")]
        self.keys = keys
        self.policy = read_policy(POLICY, source="p")
        targets_key = load_signer(folder / "admin" / "keys", "targets")
        database = Database(self.folder.database_path)
        with database.read() as connection:
            current = connection.exec_driver_sql(
                "SELECT content FROM image_metadata WHERE role = 'targets'"
            ).scalar_one()
        database.close()
        delegation = ProductDelegation("digits", [key.public_key for key in keys], 2)
        self.targets = delegate_product(bytes(current), targets_key, delegation)
        self.bundles = release_targets([open_bundle(bundle)], self.policy)
        self.signer = SignerProcess(self.folder.signer)
        self.version = 1
        self.expires = datetime.now(UTC).replace(microsecond=0) + APPROVAL_LIFETIME

    def delegated(self, *signers: Any, version_of: Targets | None = None) -> bytes:
        metadata = Metadata(version_of or add_release(None, self.bundles, expires=self.expires))
        for signer in signers:
            metadata.sign(signer, append=True)
        return metadata.to_bytes()

    def snapshot(self, delegated: dict[str, bytes], version: int | None = None) -> bytes:
        self.version += 1
        request = SignSnapshot(
            version=version or self.version,
            expires_at=time.time() + 3600,
            targets=self.targets,
            delegated=delegated,
        )
        return self.signer.sign_snapshot(request)

    def approve(self) -> None:
        self.snapshot({"production-digits": self.delegated(*self.keys)})

    def restart(self) -> None:
        self.signer.close()
        self.signer = SignerProcess(self.folder.signer)

    def order(
        self,
        device: str,
        *,
        counter: int,
        version: int,
        path: str | None = TARGET,
        also: str = "",
        lift: tuple[str, ...] = (),
    ) -> Any:
        return self.signer.sign_assignment(
            SignAssignment(
                device=device,
                profile="linux-x86_64",
                counter=counter,
                version=version,
                expires_at=EXPIRES_AT,
                target_paths=tuple(one for one in (path, also) if one),
                lift=lift,
            )
        )


@pytest.fixture(name="bench")
def _bench(tmp_path: Path, make_bundle: Callable[..., Path]) -> Iterator[Bench]:
    bench = Bench(tmp_path, make_bundle(tmp_path))
    yield bench
    bench.signer.close()


@pytest.fixture(name="certified")
def _certified(bench: Bench, device_csr: Callable[[str], str]) -> Bench:
    for number in range(8):
        name = f"d{number}"
        request = SignCertificate(device=name, profile="linux-x86_64", csr_pem=device_csr(name))
        assert bench.signer.sign_certificate(request).startswith("-----BEGIN CERTIFICATE-----")
    return bench


def test_the_approvers_of_a_product_cannot_have_software_ordered(certified: Bench) -> None:
    path = "digits/1.0.0/edgefleet-agent-1.0.0-any.python-any.wheels"
    custom = SoftwareCustom(
        name="edgefleet-agent", version="1.0.0", machine="any", python="any", policy_sha256=certified.policy.sha256
    )
    software = ReleaseTarget(path, "5" * 64, 1, custom)
    signed = add_release(None, [*certified.bundles, software], expires=certified.expires)
    certified.snapshot({"production-digits": certified.delegated(*certified.keys, version_of=signed)})
    certified.signer.open_rollout(OpenRollout(name="digits", version="1.0.0", policy=POLICY))
    with pytest.raises(TrustError) as raised:
        certified.order("d0", counter=1, version=1, path=path)
    assert raised.value.message == f"'{path}' is not in the approved set"
    certified.order("d0", counter=1, version=1)


def test_a_snapshot_lists_only_what_a_threshold_signed_and_nothing_older(bench: Bench) -> None:
    ada, bob = bench.keys
    for signers in ([ada], []):
        with pytest.raises(TrustError, match="'production-digits' is not signed by its threshold of keys"):
            bench.snapshot({"production-digits": bench.delegated(*signers)})
    with pytest.raises(TrustError, match="'production-other' is not signed"):
        bench.snapshot({"production-other": bench.delegated(ada, bob)})
    bench.approve()
    bench.restart()
    with pytest.raises(TrustError, match="leaves out 'production-digits'"):
        bench.snapshot({})
    with pytest.raises(TrustError, match="'snapshot' has version"):
        bench.snapshot({"production-digits": bench.delegated(ada, bob)}, version=1)


def test_a_quarantine_is_lifted_of_approved_bundles_and_by_a_new_order(certified: Bench) -> None:
    certified.approve()
    (approved,) = {target.sha256 for target in certified.bundles}
    signed = certified.order("d0", counter=1, version=1, path=None, lift=(approved,))
    assert read_assignment(Metadata[Targets].from_bytes(signed.targets).signed.unrecognized_fields).lift == (approved,)
    certified.restart()
    with pytest.raises(TrustError, match="device 'd0' has counter 1 already"):
        certified.order("d0", counter=1, version=2, path=None)
    with pytest.raises(TrustError) as raised:
        certified.order("d0", counter=2, version=2, path=None, lift=(approved, "a" * 64))
    assert raised.value.message == f"'{'a' * 64}' is no approved bundle whose quarantine could be lifted"
    certified.order("d0", counter=2, version=2, path=None)


def test_an_order_needs_an_approved_bundle_and_an_opened_rollout(certified: Bench) -> None:
    empty = certified.order("d0", counter=0, version=1, path=None)
    assert read_assignment(Metadata[Targets].from_bytes(empty.targets).signed.unrecognized_fields).counter == 0
    with pytest.raises(TrustError, match="is not in the approved set"):
        certified.order("d0", counter=1, version=2)
    certified.approve()
    with pytest.raises(PolicyError, match=r"no rollout of digits 1\.0\.0 was opened"):
        certified.order("d0", counter=1, version=2)
    other = POLICY.replace(b"25.0", b"99.0")
    with pytest.raises(PolicyError, match="not the one that the release was approved with"):
        certified.signer.open_rollout(OpenRollout(name="digits", version="1.0.0", policy=other))
    certified.signer.open_rollout(OpenRollout(name="digits", version="1.0.0", policy=POLICY))
    signed = certified.order("d0", counter=1, version=2)
    assert list(Metadata[Targets].from_bytes(signed.targets).signed.targets) == [TARGET]
    with pytest.raises(TrustError, match="is not for the profile of device 'unknown'"):
        certified.order("unknown", counter=1, version=1)


def test_a_counter_never_means_two_orders_and_a_wave_never_grows_too_large_even_after_a_restart(
    certified: Bench,
) -> None:
    certified.approve()
    certified.signer.open_rollout(OpenRollout(name="digits", version="1.0.0", policy=POLICY))
    first = certified.order("d0", counter=1, version=1)
    assert certified.order("d0", counter=1, version=1) == first, "signing the same again gives the same bytes"
    certified.order("d1", counter=1, version=1)
    certified.restart()
    with pytest.raises(PolicyError, match=r"2 devices have digits 1\.0\.0 already, and its waves allow 2 by now"):
        certified.order("d2", counter=1, version=1)
    with pytest.raises(TrustError, match="device 'd0' has counter 1 already, got 1"):
        certified.order("d0", counter=1, version=2, path=None)
    with pytest.raises(TrustError, match="device 'd0' has counter 1 already, got 0"):
        certified.order("d0", counter=0, version=2, path=None)
    with pytest.raises(TrustError, match="'d0' has a version 1 with another content"):
        certified.order("d0", counter=2, version=1, path=None)
    certified.order("d0", counter=2, version=2, path=None)
    certified.order("d2", counter=1, version=1)


@contextmanager
def room_for(path: Path, more_bytes: int) -> Iterator[None]:
    """Let this process's files grow to so many bytes more than ``path`` has: as on a disk that fills up."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room_bytes", [0, 1, 100])
def test_a_record_that_finds_no_room_is_refused_whole_and_the_log_goes_on_when_there_is_some(
    tmp_path: Path, room_bytes: int
) -> None:
    records = [CertificateIssued(device=f"d{number}", profile="p", at=1.0) for number in range(3)]
    journal = Journal(tmp_path / "log.jsonl")
    journal.append(records[0])
    before = journal.path.read_bytes()
    with room_for(journal.path, room_bytes), pytest.raises(StorageError) as refused:
        journal.append(records[1])
    assert str(refused.value) == "cannot write the signer's log 'log.jsonl': File too large"
    assert journal.path.read_bytes() == before
    journal.append(records[2])
    journal.close()
    assert Journal(journal.path).records == [records[0], records[2]]


def test_a_torn_last_line_of_the_log_is_dropped_and_any_other_damage_stops_the_signer(
    certified: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    certified.signer.close()
    log = certified.folder.signer / "log.jsonl"
    whole = log.read_bytes()
    log.write_bytes(whole + b'{"previous":"ab')
    Journal(log).close()
    assert log.read_bytes() == whole
    lines = whole.splitlines(keepends=True)
    log.write_bytes(b"".join([lines[0], *lines[2:]]))
    with pytest.raises(StorageError, match=r"the signer's log 'log\.jsonl' is damaged behind record 1"):
        Journal(log)
    stopped = SignerProcess(certified.folder.signer)
    with pytest.raises(UnreachableError, match="the signer has ended"):
        stopped.sign_certificate(SignCertificate(device="x", profile="p", csr_pem=""))
    stopped.close()
    assert capfd.readouterr().err == (
        "error: the signer cannot start: the signer's log 'log.jsonl' is damaged behind record 1\n"
        f"hint: restore '{certified.folder.signer}' from a backup\n"
    )
    log.write_bytes(whole)


def test_an_order_has_one_release_of_each_product(
    certified: Bench, tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    next_bundles = release_targets([open_bundle(make_bundle(tmp_path, version="2.0.0"))], certified.policy)
    first = add_release(None, certified.bundles, expires=certified.expires)
    both = add_release(first, next_bundles, expires=certified.expires)
    certified.snapshot({"production-digits": certified.delegated(*certified.keys, version_of=both)})
    for version in ("1.0.0", "2.0.0"):
        certified.signer.open_rollout(OpenRollout(name="digits", version=version, policy=POLICY))
    with pytest.raises(TrustError, match=r"^device 'd0' would get two releases of 'digits'$"):
        certified.order("d0", counter=1, version=1, also="digits/2.0.0/digits-2.0.0-linux-x86_64.bundle")


def test_the_log_of_a_signer_that_knew_one_bundle_an_order_is_read() -> None:
    line = (
        b'{"type":"assignment","device":"d0","counter":3,"version":7,'
        b'"target_path":"digits/1.0.0/a.bundle","sha256":"00","at":1.5}'
    )
    assert msgspec.json.decode(line, type=AssignmentSigned).paths == ("digits/1.0.0/a.bundle",)
    nothing = line.replace(b'"digits/1.0.0/a.bundle"', b"null")
    assert msgspec.json.decode(nothing, type=AssignmentSigned).paths == ()
