# SPDX-License-Identifier: Apache-2.0
"""What the signer does with a request: check it by its own knowledge, log it durably, then sign.

The rules:

1. A snapshot lists only metadata that a threshold of people signed, and never an older version than before.
2. A version that was signed once is signed again only with the same content (so a crash changes nothing).
3. A device's counter never falls, and one counter never means two orders.
4. A device is sent only to bundles (and software) in the approved set, one of each product, made for its profile,
   within a rollout that was opened, and only while no more devices have the release than the waves of its signed policy
   allow by now.
5. Certificates are issued as :mod:`fleet_server.signer.certificate_rules` says.
6. For a decommissioned device nothing is signed any more.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from tuf.api.exceptions import RepositoryError

from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.errors import EdgeFleetError, PolicyError, RefusedError, TrustError
from edgefleet.contracts.policy import PinnedPolicy, read_policy
from edgefleet.contracts.tuf_custom import Assignment, ReleaseCustom, SoftwareCustom, to_custom
from fleet_server.adapters.devices.renewal_proof import read_proof
from fleet_server.adapters.keys.certificates import DEVICE_CERTIFICATE_DAYS, KeyedCertificate, issue_device
from fleet_server.adapters.storage.private_files import write_file
from fleet_server.core.rollouts.cohort import cap_at
from fleet_server.core.trust.approved import ApprovedSet, ApprovedTarget, verify_approvals
from fleet_server.core.trust.tuf_types import Metadata, MetaFile, Root, Signer, Snapshot, TargetFile, Targets, Timestamp
from fleet_server.signer.certificate_rules import check_enrolment, check_not_decommissioned, check_renewal
from fleet_server.signer.journal import (
    AssignmentSigned,
    CertificateIssued,
    DeviceDecommissioned,
    Journal,
    MetadataSigned,
    Record,
    RolloutOpened,
)
from fleet_server.signer.requests import (
    Answer,
    Decommission,
    OpenRollout,
    Refused,
    RenewCertificate,
    Request,
    SignAssignment,
    SignCertificate,
    Signed,
    SignedAssignment,
    SignSnapshot,
    SignTimestamp,
)

_LONGEST_LIFETIME = timedelta(days=32)
_LONGEST_OFFLINE_LIFETIME = timedelta(days=3 * 366)
_HINT = "look at the server's log and the signer's log; nothing was signed"


class _ApprovedFiles(msgspec.Struct, frozen=True):
    targets: bytes
    delegated: dict[str, bytes]


class SignerService:
    """The signer's state and its answers. ``clock`` returns Unix seconds; ``time_scale`` divides policy durations."""

    def __init__(
        self,
        folder: Path,
        *,
        tenant: str,
        root: Metadata[Root],
        image_key: Signer,
        director_key: Signer,
        authority: KeyedCertificate,
        clock: Callable[[], float],
        time_scale: float = 1.0,
        certificate_days: float = DEVICE_CERTIFICATE_DAYS,
    ) -> None:
        self._tenant = tenant
        self._root = root
        self._image_key = image_key
        self._director_key = director_key
        self._authority = authority
        self._clock = clock
        self._time_scale = time_scale
        self._certificate_days = certificate_days
        self._approved_path = folder / "approved.msgpack"
        self._journal = Journal(folder / "log.jsonl")
        self._versions: dict[str, MetadataSigned] = {}
        self._rollouts: dict[tuple[str, str], RolloutOpened] = {}
        self._orders: dict[str, AssignmentSigned] = {}
        self._ever: set[tuple[str, str]] = set()
        self._profiles: dict[str, str] = {}
        self._gone: set[str] = set()
        for record in self._journal.records:
            self._remember(record)
        self._approved = self._load_approved()

    def answer(self, request: Request) -> Answer:
        """Carry out a request, or say why not."""
        try:
            return self._dispatch(request)
        except EdgeFleetError as error:
            return Refused(code=error.code, message=error.message, hint=error.hint)
        except (RepositoryError, ValueError, OverflowError) as error:  # metadata or a date that is none
            return Refused(code=TrustError.code, message=f"the request is no valid one: {error}", hint=_HINT)

    def _dispatch(self, request: Request) -> Answer:
        if isinstance(request, SignAssignment):
            return self._sign_assignment(request)
        if isinstance(request, SignSnapshot):
            return Signed(content=self._sign_snapshot(request))
        if isinstance(request, SignTimestamp):
            return Signed(content=self._sign_timestamp(request))
        if isinstance(request, OpenRollout):
            return self._open_rollout(request)
        if isinstance(request, RenewCertificate):
            return self._renew_certificate(request)
        if isinstance(request, Decommission):
            return self._decommission(request)
        return self._sign_certificate(request)

    def _sign_snapshot(self, request: SignSnapshot) -> bytes:
        approved = verify_approvals(self._root, request.targets, request.delegated)
        for role, metadata in approved.roles.items():
            before = self._approved.roles.get(role) if self._approved else None
            if before is not None and metadata.signed.version < before.signed.version:
                raise TrustError(
                    f"'{role}' is version {metadata.signed.version}, seen before: {before.signed.version}", hint=_HINT
                )
            if before is not None and metadata.signed.version == before.signed.version:
                _check_unchanged(role, metadata, before)
        gone = set(self._approved.roles if self._approved else ()) - set(approved.roles)
        if gone:
            raise TrustError(f"the snapshot leaves out '{min(gone)}', which it listed before", hint=_HINT)
        meta = {f"{role}.json": MetaFile(version=data.signed.version) for role, data in approved.roles.items()}
        signed = Metadata(Snapshot(version=request.version, expires=self._expiry(request), meta=meta))
        self._log_metadata("snapshot", request.version, signed)
        files = _ApprovedFiles(request.targets, request.delegated)
        write_file(self._approved_path, msgspec.msgpack.encode(files), mode=0o600)
        self._approved = approved
        return _signed_bytes(signed, self._image_key)

    def _sign_timestamp(self, request: SignTimestamp) -> bytes:
        snapshot = Metadata[Snapshot].from_bytes(request.snapshot)
        self._root.signed.verify_delegate("snapshot", snapshot.signed_bytes, snapshot.signatures)
        newest = self._versions.get("snapshot")
        if newest is None or newest.version != snapshot.signed.version:
            raise TrustError(f"snapshot {snapshot.signed.version} is not the newest that was signed", hint=_HINT)
        signed = Metadata(
            Timestamp(
                version=request.version,
                expires=self._expiry(request),
                snapshot_meta=MetaFile(version=snapshot.signed.version),
            )
        )
        self._log_metadata("timestamp", request.version, signed)
        return _signed_bytes(signed, self._image_key)

    def _log_metadata(self, role: str, version: int, metadata: Metadata[Snapshot] | Metadata[Timestamp]) -> None:
        sha256 = sha256_hex(metadata.signed_bytes)
        before = self._versions.get(role)
        _check_version(role, version, sha256, (before.version, before.sha256) if before else None)
        self._log(MetadataSigned(role=role, version=version, sha256=sha256, at=self._clock()))

    def _open_rollout(self, request: OpenRollout) -> Signed:
        key = (request.name, request.version)
        policy = read_policy(request.policy, source="the rollout's policy")
        bundles = [t for t in self._bundles() if (t.release.name, t.release.version) == key]
        if not bundles:
            raise TrustError(f"release {request.name} {request.version} is not approved", hint="approve it first")
        if any(target.release.policy_sha256 != policy.sha256 for target in bundles):
            raise PolicyError("the policy is not the one that the release was approved with", hint=_HINT)
        if key not in self._rollouts:
            opened = RolloutOpened(
                name=request.name, version=request.version, policy=request.policy.decode(), at=self._clock()
            )
            self._log(opened)
        return Signed()

    def _sign_assignment(self, request: SignAssignment) -> SignedAssignment:
        targets = [self._allowed_target(request, path) for path in request.target_paths]
        _check_one_of_each(request.device, [target.release.name for target in targets])
        self._check_lift(request)
        check_not_decommissioned(request.device, request.device in self._gone)
        before = self._orders.get(request.device)
        if before is not None and (
            request.counter < before.counter
            or (
                request.counter == before.counter
                and (request.target_paths, request.lift) != (before.paths, before.lift)
            )
        ):
            raise TrustError(
                f"device '{request.device}' has counter {before.counter} already, got {request.counter}", hint=_HINT
            )
        metadata = self._assignment_metadata(request, [target.file for target in targets])
        sha256 = sha256_hex(b"".join(part.signed_bytes for part in metadata))
        _check_version(request.device, request.version, sha256, (before.version, before.sha256) if before else None)
        self._log(
            AssignmentSigned(
                device=request.device,
                counter=request.counter,
                version=request.version,
                target_paths=request.target_paths,
                sha256=sha256,
                at=self._clock(),
                renewal_grace_until=request.renewal_grace_until,
                lift=request.lift,
            )
        )
        order, snapshot, timestamp = (_signed_bytes(part, self._director_key) for part in metadata)
        return SignedAssignment(targets=order, snapshot=snapshot, timestamp=timestamp)

    def _assignment_metadata(
        self, request: SignAssignment, files: Sequence[TargetFile]
    ) -> tuple[Metadata[Targets], Metadata[Snapshot], Metadata[Timestamp]]:
        expires = self._expiry(request)
        order = Assignment(
            tenant=self._tenant,
            device=request.device,
            profile=request.profile,
            counter=request.counter,
            renewal_grace_until=request.renewal_grace_until,
            lift=request.lift,
        )
        bare = {file.path: TargetFile(length=file.length, hashes=dict(file.hashes), path=file.path) for file in files}
        version = request.version
        return (
            Metadata(Targets(version=version, expires=expires, targets=bare, unrecognized_fields=to_custom(order))),
            Metadata(Snapshot(version=version, expires=expires, meta={"targets.json": MetaFile(version=version)})),
            Metadata(Timestamp(version=version, expires=expires, snapshot_meta=MetaFile(version=version))),
        )

    def _check_lift(self, request: SignAssignment) -> None:
        if not request.lift:
            return
        approved = {target.file.hashes.get("sha256") for target in self._bundles()}
        for sha256 in request.lift:
            if sha256 not in approved:
                raise TrustError(f"'{sha256}' is no approved bundle whose quarantine could be lifted", hint=_HINT)

    def _allowed_target(self, request: SignAssignment, path: str) -> ApprovedTarget:
        target = self._approved.bundles.get(path) if self._approved else None
        if target is None:
            raise TrustError(f"'{path}' is not in the approved set", hint="approve the release first")
        profile = target.release.profile if isinstance(target.release, ReleaseCustom) else request.profile
        if profile != request.profile or self._profiles.get(request.device) != request.profile:
            raise TrustError(f"'{path}' is not for the profile of device '{request.device}'", hint=_HINT)
        if (request.device, path) not in self._ever:
            self._check_wave(target)
        return target

    def _check_wave(self, target: ApprovedTarget) -> None:
        release = (target.release.name, target.release.version)
        opened = self._rollouts.get(release)
        if opened is None:
            raise PolicyError(f"no rollout of {release[0]} {release[1]} was opened", hint="create a rollout")
        policy = self._read_opened(opened)
        files = [t for t in self._bundles() if (t.release.name, t.release.version) == release]
        paths = {t.file.path for t in files}
        profiles = {t.release.profile for t in files if isinstance(t.release, ReleaseCustom)}
        software = isinstance(target.release, SoftwareCustom)  # what machines devices are is not known here
        covered = sum(software or profile in profiles for profile in self._profiles.values())
        elapsed_s = (self._clock() - opened.at) * self._time_scale
        cap = cap_at(policy.policy.rollout.waves, covered=covered, elapsed_s=elapsed_s)
        have = sum(not paths.isdisjoint(order.paths) for order in self._orders.values())
        if have >= cap:
            raise PolicyError(
                f"{have} devices have {release[0]} {release[1]} already, and its waves allow {cap} by now",
                hint="wait for the next wave",
            )

    def _sign_certificate(self, request: SignCertificate) -> Signed:
        check_not_decommissioned(request.device, request.device in self._gone)
        check_enrolment(request.device, request.profile, known_profile=self._profiles.get(request.device))
        return self._issue(request.device, request.profile, request.csr_pem)

    def _renew_certificate(self, request: RenewCertificate) -> Signed:
        wanted = read_proof(request.proof, tenant=self._tenant, authority_pem=self._authority.certificate_pem)
        check_not_decommissioned(wanted.device, wanted.device in self._gone)
        profile, order = self._profiles.get(wanted.device), self._orders.get(wanted.device)
        grace_until = order.renewal_grace_until if order is not None else None
        check_renewal(wanted, known_profile=profile, grace_until=grace_until, now=self._clock())
        return self._issue(wanted.device, profile or "", wanted.csr_pem)

    def _issue(self, device: str, profile: str, csr_pem: str) -> Signed:
        pem = issue_device(self._authority, self._tenant, device, csr_pem, days=self._certificate_days)
        self._log(CertificateIssued(device=device, profile=profile, at=self._clock()))
        return Signed(content=pem.encode())

    def _decommission(self, request: Decommission) -> Signed:
        if request.device not in self._gone:
            self._log(DeviceDecommissioned(device=request.device, at=self._clock()))
        return Signed()

    def _read_opened(self, opened: RolloutOpened) -> PinnedPolicy:
        return read_policy(opened.policy.encode(), source="the opened rollout's policy")

    def _bundles(self) -> list[ApprovedTarget]:
        return list(self._approved.bundles.values()) if self._approved else []

    def _log(self, record: Record) -> None:
        self._journal.append(record)
        self._remember(record)

    def _remember(self, record: Record) -> None:
        if isinstance(record, AssignmentSigned):
            self._orders[record.device] = record
            self._ever.update((record.device, path) for path in record.paths)
        elif isinstance(record, MetadataSigned):
            self._versions[record.role] = record
        elif isinstance(record, RolloutOpened):
            self._rollouts[(record.name, record.version)] = record
        elif isinstance(record, DeviceDecommissioned):
            self._gone.add(record.device)
        else:
            self._profiles[record.device] = record.profile

    def _load_approved(self) -> ApprovedSet | None:
        if not self._approved_path.exists():
            return None
        files = msgspec.msgpack.decode(self._approved_path.read_bytes(), type=_ApprovedFiles)
        return verify_approvals(self._root, files.targets, files.delegated)

    def _expiry(self, request: SignSnapshot | SignTimestamp | SignAssignment) -> datetime:
        expires = datetime.fromtimestamp(int(request.expires_at), UTC)
        longest = _LONGEST_OFFLINE_LIFETIME if request.offline else _LONGEST_LIFETIME
        if expires > datetime.fromtimestamp(self._clock(), UTC) + longest:
            raise RefusedError(
                f"{'offline' if request.offline else 'online'} metadata may not live until {expires:%Y-%m-%d}",
                hint=_HINT,
            )
        return expires


def _check_one_of_each(device: str, products: Sequence[str]) -> None:
    twice = sorted(product for product in set(products) if products.count(product) > 1)
    if twice:
        raise TrustError(f"device '{device}' would get two releases of '{twice[0]}'", hint=_HINT)


def _check_version(what: str, version: int, sha256: str, before: tuple[int, str] | None) -> None:
    if before is None or version > before[0]:
        return
    if version < before[0]:
        raise TrustError(f"'{what}' has version {before[0]} already, got {version}", hint=_HINT)
    if sha256 != before[1]:
        raise TrustError(f"'{what}' has a version {version} with another content", hint=_HINT)


def _check_unchanged(role: str, metadata: Metadata[Targets], before: Metadata[Targets]) -> None:
    if metadata.signed_bytes != before.signed_bytes:
        raise TrustError(f"'{role}' has a version {metadata.signed.version} with another content", hint=_HINT)


def _signed_bytes(metadata: Metadata[Snapshot] | Metadata[Timestamp] | Metadata[Targets], key: Signer) -> bytes:
    metadata.sign(key)
    return metadata.to_bytes()
