# SPDX-License-Identifier: Apache-2.0
"""What this device may run: both TUF repositories must agree (Uptane's partial order of work).

1. Refresh the director's metadata for this device, in a trusted folder of its own (TUF specification 5.3 to 5.6).
2. Read the assignment: tenant, device and profile must be ours, the counter not below the highest one seen.
3. Refresh the image repository if a target is given, if something was recalled, and twice a day; read what the signers
   of each role say beside their targets (floors and recalls), and remember it.
4. Find each target in the image repository, through its delegations: length and hashes must equal the director's.
5. A bundle must be listed under its own name, be for this profile, one a name, and neither recalled nor below its
   floor; besides bundles there may be one file of settings, and one wheel set of the agent's own software.

Everything else is refused with a cause. python-tuf's client is used as it is. A recall reaches the device even when the
order itself is refused.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import msgspec
from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import TargetFile as TufTarget  # type: ignore[attr-defined]  # tuf re-exports without saying so

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.network.https import reason_of
from device_agent.adapters.storage.slots import names_in
from device_agent.adapters.system.fitness import check_fit
from device_agent.adapters.system.hardware import hardware_facts
from device_agent.adapters.verification.metadata_client import BoundedFetcher
from device_agent.adapters.verification.trust_memory_file import TrustMemoryFile
from device_agent.adapters.verification.verified_repository import VerifiedRepository, VerifiedRole
from device_agent.core.identity import Identity
from device_agent.core.orders.agreement import Agreement, Watched
from device_agent.core.orders.clock_judgement import ahead, behind, believed, next_bound
from device_agent.core.orders.ordered_targets import Listed, Sorted, check_assignment, refused, sort_listed
from device_agent.core.orders.release_orders import Notice, Order, SignedSettings
from device_agent.core.orders.trust_memory import TOP_LEVEL, Say, TrustMemory, below_floor, learned, older, recall_of
from device_agent.errors import TrustRefusedError, storage_failed
from edgefleet.contracts.enrolment import HardwareFacts
from edgefleet.contracts.errors import EdgeFleetError, TrustError, UnreachableError
from edgefleet.contracts.messages import RunningRelease
from edgefleet.contracts.software import SOFTWARE_NAME
from edgefleet.contracts.tuf_custom import (
    DIRECTOR_REPOSITORY,
    IMAGE_REPOSITORY,
    Assignment,
    SettingsCustom,
    read_assignment,
    read_standing,
    read_target_custom,
)

_LOG = logging.getLogger("edgefleet.agent")
_CAUSES: tuple[tuple[type[Exception], str], ...] = (
    (ExpiredMetadataError, "metadata-expired"),
    (UnsignedMetadataError, "metadata-unsigned"),
    (BadVersionNumberError, "metadata-rollback"),
    (LengthOrHashMismatchError, "metadata-mismatch"),
    (DownloadLengthMismatchError, "metadata-oversized"),
    (RepositoryError, "metadata-invalid"),
)
#: How often the image repository is asked for recalls when the director orders nothing.
LOOK_S = 43_200.0
#: The clock's lower bound is stored again when it has moved so far: a flash memory is not written at each poll.
_BOUND_STEP_S = 6 * 3600.0


class MetadataSource(Protocol):
    """Where metadata come from: the server, or an update that a person brought."""

    server_url: str

    def read(self, path: str) -> tuple[int, Iterator[bytes]]:
        """Return the status and the body of the answer to a request for a path."""


class TufTrust:
    """Both repositories, as one device sees them. Not for two threads at once. ``clock`` returns Unix seconds."""

    def __init__(
        self,
        folder: DataFolder,
        identity: Identity,
        connection: MetadataSource,
        *,
        clock: Callable[[], float] = time.time,
        facts: Callable[[], HardwareFacts] = hardware_facts,
    ) -> None:
        #: What must not change for the last check's order to stand; None after a refusal.
        self.agreement: Agreement | None = None
        self._folder = folder
        self._identity = identity
        self._connection = connection
        self._server_url = connection.server_url
        self._fetcher = BoundedFetcher(lambda url: connection.read(url.removeprefix(self._server_url)))
        self._clock = clock
        self._facts = facts
        self._file = TrustMemoryFile(folder.trust)
        self._memory = self._file.load()

    def check(self, seen_counter: int) -> Order:
        """Return the order that both repositories agree on.

        Raises:
            TrustRefusedError: metadata or order is refused; its ``recall`` is what is recalled nevertheless.
            UnreachableError: the server does not answer.
            StorageError: verified metadata cannot be stored.
            InputError: the device's certificates or trusted roots cannot be used.
        """
        self._fetcher.begin()
        self.agreement = None
        try:
            with self._mapped():
                return self._check(seen_counter)
        except TrustRefusedError as error:
            self._look_regardless()
            error.recall = recall_of(self._memory) if self._memory.roles else None  # None: not known any more
            raise

    # ------------------------------------------------------------------ the work, step by step

    def _check(self, seen_counter: int) -> Order:
        director = self._repository(DIRECTOR_REPOSITORY, f"director/{self._identity.device}/metadata/")
        listed = director.refresh()
        assignment = read_assignment(listed.unrecognized_fields)
        check_assignment(assignment, self._identity, seen_counter)
        director.sync()
        ordered, settings = Sorted(), None
        asked = [director]
        if listed.targets or self._should_look(assignment.standing):
            image = self._repository(IMAGE_REPOSITORY, "image/metadata/")
            image.refresh()
            found = _find_all(image, list(listed.targets.values()))
            ordered = sort_listed([_listed(target) for target in found], self._identity)
            self._look(image, {release.name for release in _releases(ordered)}, assignment.standing)
            self._check_allowed(ordered)
            self._check_fit(found)
            settings = self._settings(image, found, ordered)
            asked += [image] if listed.targets else []
        self._note_time(director.first_expiry())
        self.agreement = self._agreement(asked)
        return self._order(assignment, ordered, settings)

    def _look(self, image: VerifiedRepository, names: set[str], standing: int) -> None:
        """Learn what each role that may speak of our models says of them, and remember it before anything else."""
        names = {*names, SOFTWARE_NAME, *self._memory.names, *names_in(self._folder.slots)}
        says = {TOP_LEVEL: _say(image.top_level(), ())}
        for name in sorted(names):
            path = f"{name}/0.0.0/standing"  # nobody lists it: the search goes through all roles of the name
            image.find(path)
            for role in image.roles_for(path):
                before = says[role.name].names if role.name in says else ()
                says[role.name] = _say(role, (*before, name))
        for say in says.values():
            if (seen := older(self._memory, say)) is not None:
                was = f"'{say.role}' has the version {say.version}, {seen} was seen before"
                raise refused("metadata-rollback", was)
        image.sync()
        memory = learned(self._memory, says.values(), searched=names)
        signed = max((min(s.standing.signed_at or 0, image.first_expiry()) for s in says.values()), default=0.0)
        self._remember(
            msgspec.structs.replace(
                memory,
                standing=max(standing, memory.standing),
                looked_at=self._clock(),
                bound=max(memory.bound, signed),
            )
        )

    def _check_allowed(self, ordered: Sorted) -> None:
        recall = recall_of(self._memory)
        if ordered.wanted and recall.stopped:
            raise refused("recalled", recall.forbids(ordered.wanted[0].release))
        for release in _releases(ordered):
            if why := recall.strikes(release):
                raise refused("recalled", why)
            if why := below_floor(self._memory, release):
                raise refused("below-floor", why)

    def _check_fit(self, found: list[TufTarget]) -> None:
        facts = self._facts()
        for target in found:
            check_fit(target.unrecognized_fields.get("custom"), target.path, facts)

    def _settings(self, image: VerifiedRepository, found: list[TufTarget], ordered: Sorted) -> SignedSettings | None:
        """Return the verified content of the order's settings, fetched once."""
        listed = ordered.settings
        if listed is None:
            return None
        assert isinstance(listed.custom, SettingsCustom) and listed.sha256 is not None  # noqa: S101, PT018  sorted
        target = next(target for target in found if target.path == listed.path)
        cached = self._folder.trust / "settings.toml"
        data = image.content(target, cached, f"{self._server_url}/image/targets/")
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise refused("settings-invalid", f"'{listed.path}' is not UTF-8 text") from error
        return SignedSettings(listed.custom.name, listed.sha256, text)

    def _order(self, assignment: Assignment, ordered: Sorted, settings: SignedSettings | None) -> Order:
        slow = behind(self._clock(), self._memory.bound)
        return Order(
            assignment.counter,
            ordered.wanted,
            recall=recall_of(self._memory),
            lift=assignment.lift,
            settings=settings,
            notices=(Notice("clock-behind", slow),) if slow else (),
            software=ordered.software,
        )

    def _agreement(self, verified: list[VerifiedRepository]) -> Agreement:
        """Return what must not change in the repositories that each check asks, where nothing else is due."""
        news = {url: sha256 for repository in verified for url, sha256 in repository.news().items()}
        watched = [Watched(path=url.removeprefix(self._server_url), sha256=sha256) for url, sha256 in news.items()]
        until = min(repository.valid_until() for repository in verified)
        look_at = self._memory.looked_at + LOOK_S
        return Agreement(watched=tuple(watched), until=min(until, look_at), bound=self._memory.bound)

    # ------------------------------------------------------------------ what is remembered

    def _should_look(self, standing: int) -> bool:
        return standing > self._memory.standing or abs(self._clock() - self._memory.looked_at) >= LOOK_S

    def _look_regardless(self) -> None:
        """Ask for recalls although the order was refused: who holds the director back cannot hold these back."""
        if not self._should_look(0):
            return
        try:
            with self._mapped():
                image = self._repository(IMAGE_REPOSITORY, "image/metadata/")
                image.refresh()
                self._look(image, set(), 0)
        except EdgeFleetError as error:
            _LOG.info("recalls could not be asked for: %s", error)

    def _note_time(self, first_expiry: float) -> None:
        bound = next_bound(
            self._memory.bound, wall=self._clock(), server=self._server_date(), first_expiry=first_expiry
        )
        if bound - self._memory.bound >= _BOUND_STEP_S:
            self._remember(msgspec.structs.replace(self._memory, bound=bound))

    def _remember(self, memory: TrustMemory) -> None:
        if memory != self._memory:
            self._file.save(memory)
            self._memory = memory

    # ------------------------------------------------------------------ the world

    def _server_date(self) -> float | None:
        return getattr(self._connection, "server_date", None)  # a file from a USB stick has none

    def _repository(self, repository: str, path: str) -> VerifiedRepository:
        return VerifiedRepository(
            self._folder.trust / repository,
            self._folder.root_metadata(repository),
            f"{self._server_url}/{path}",
            fetcher=self._fetcher,
            believed=believed(self._clock(), self._memory.bound),
        )

    @contextmanager
    def _mapped(self) -> Iterator[None]:
        """Turn python-tuf's errors and the system's into this agent's."""
        try:
            yield
        except (RepositoryError, DownloadLengthMismatchError) as error:
            raise self._refused_metadata(error) from error
        except DownloadHTTPError as error:
            raise UnreachableError(
                f"the server {self._server_url} answered {error.status_code} to a request for metadata",
                hint="check the server's log; the agent tries again by itself",
            ) from error
        except DownloadError as error:
            own = error.__cause__
            if isinstance(own, EdgeFleetError):  # a fault of this device's own, such as a lost certificate
                raise own from own.__cause__
            raise UnreachableError(
                f"the server {self._server_url} does not answer: {reason_of(error.__cause__ or error)}",
                hint="check the server's address and the network; the agent tries again by itself",
            ) from error
        except TrustRefusedError:
            raise
        except TrustError as error:  # a custom field that breaks the contract
            raise TrustRefusedError("metadata-invalid", error.message, hint=error.hint) from error
        except OSError as error:
            raise storage_failed("store verified metadata", error) from error

    def _refused_metadata(self, error: Exception) -> TrustRefusedError:
        """Name the cause of a refusal by python-tuf; a clock that is far ahead is told as such, and helps nobody."""
        cause = next(cause for kind, cause in _CAUSES if isinstance(error, kind))
        fast = ahead(self._clock(), self._server_date()) if cause == "metadata-expired" else ""
        if fast:
            return refused("clock-ahead", f"metadata is refused: {error}; {fast}")
        return refused(cause, f"metadata is refused: {error}")


def _find_all(image: VerifiedRepository, listed: list[TufTarget]) -> list[TufTarget]:
    """Find what the director lists in the image repository too, described alike."""
    agreed = []
    for ordered in listed:
        found = image.find(ordered.path)
        if found is None:
            raise refused("not-in-image-repository", f"'{ordered.path}' is not in the image repository")
        if (found.length, found.hashes) != (ordered.length, ordered.hashes):
            raise refused("mismatch", f"director and image repository differ in length or hashes of '{ordered.path}'")
        agreed.append(found)
    return agreed


def _releases(ordered: Sorted) -> tuple[RunningRelease, ...]:
    software = (ordered.software.release,) if ordered.software is not None else ()
    return (*(one.release for one in ordered.wanted), *software)


def _listed(target: TufTarget) -> Listed:
    custom = read_target_custom(target.unrecognized_fields.get("custom"))
    return Listed(target.path, target.hashes.get("sha256"), target.length, custom)


def _say(role: VerifiedRole, names: tuple[str, ...]) -> Say:
    standing = read_standing(role.targets.unrecognized_fields, role.name)
    return Say(role=role.name, version=role.targets.version, keys=role.keys, names=names, standing=standing)
