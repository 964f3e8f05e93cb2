# SPDX-License-Identifier: Apache-2.0
"""One TUF repository as a device has verified it: python-tuf's client, and what it does not tell.

python-tuf judges expiry by the clock of this device; here it is judged once more by the latest time that the device
knows of. The search for a target goes through the same roles in the same order as python-tuf's (specification 5.6.7),
over the files that it has just verified, to say which roles may speak of a name, and when there were too many.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Delegations, Metadata, Role, Root, Signed, Targets  # type: ignore[attr-defined]
from tuf.api.metadata import TargetFile as TufTarget  # type: ignore[attr-defined]  # tuf re-exports without saying so
from tuf.ngclient import FetcherInterface, Updater  # type: ignore[attr-defined]

from device_agent.adapters.storage.durable import sync_file, sync_folder
from device_agent.adapters.verification.metadata_client import DELEGATION_LIMIT, client_settings
from device_agent.core.orders.clock_judgement import day
from device_agent.core.orders.ordered_targets import refused
from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.errors import FileMissingError
from edgefleet.contracts.files import read_regular

_TOP = ("root", "timestamp", "snapshot", "targets")


class VerifiedRole(NamedTuple):
    """A targets role that was verified, and a name for the keys and threshold that it was verified with."""

    name: str
    targets: Targets
    keys: str


class _Waiting(NamedTuple):
    """A role that the search has yet to come to."""

    name: str
    keys: str


class VerifiedRepository:
    """``image`` or ``director``, in a trusted folder of its own; made anew for each check.

    Raises (everywhere):
        RepositoryError, DownloadError: python-tuf's own, for metadata that is refused and servers that are away.
        TrustRefusedError: what is refused here, with its cause.
        OSError: verified metadata cannot be stored.
    """

    def __init__(self, folder: Path, root: Path, url: str, *, fetcher: FetcherInterface, believed: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._url = url
        self._believed = believed
        self._parsed: dict[str, Targets] = {}
        self._updater = _updater(folder, root, url, fetcher)

    def refresh(self) -> Targets:
        """Return the top-level targets after a refresh of all top-level roles."""
        self._updater.refresh()
        for role in _TOP:
            self._check_time(role, self._signed(role))
        return self._targets("targets")

    def find(self, path: str) -> TufTarget | None:
        """Return a target, searched through the delegations; None where no role lists it."""
        found = self._updater.get_targetinfo(path)
        for role in self.roles_for(path):
            self._check_time(role.name, role.targets)
        return found

    def top_level(self) -> VerifiedRole:
        """Return the top-level targets role; call :meth:`refresh` first."""
        role = Metadata[Root].from_file(str(self._folder / "root.json")).signed.roles["targets"]
        return VerifiedRole("targets", self._targets("targets"), _keys_name(role))

    def roles_for(self, path: str) -> list[VerifiedRole]:
        """Return the roles that a search for ``path`` has gone through, in order; call :meth:`find` first."""
        visited: dict[str, VerifiedRole] = {}
        waiting = [_Waiting("targets", self.top_level().keys)]
        while waiting:
            role = waiting.pop()
            if role.name in visited:
                continue
            if len(visited) > DELEGATION_LIMIT:
                raise refused("delegations-too-many", f"'{path}' is delegated to more than {DELEGATION_LIMIT} roles")
            targets = self._targets(role.name)
            visited[role.name] = VerifiedRole(role.name, targets, role.keys)
            if path in targets.targets:
                break
            waiting = _next_roles(waiting, targets.delegations, path)
        return list(visited.values())

    def content(self, target: TufTarget, cached: Path, targets_url: str) -> bytes:
        """Return a small target's verified content, fetched only if ``cached`` is not it."""
        if self._updater.find_cached_target(target, str(cached)) is None:
            cached.parent.mkdir(parents=True, exist_ok=True)
            self._updater.download_target(target, str(cached), targets_url)
            sync_file(cached)
        return read_regular(cached)

    def first_expiry(self) -> float:
        """Return when the first of the top-level roles expires, in Unix seconds."""
        return min(_unix_s(self._signed(role)) for role in _TOP)

    def news(self) -> dict[str, str | None]:
        """Return the addresses that tell of news: the timestamp's SHA-256, and None for a root that is not yet."""
        timestamp = sha256_hex(read_regular(self._file("timestamp")))
        return {
            f"{self._url}timestamp.json": timestamp,
            f"{self._url}{self._signed('root').version + 1}.root.json": None,
        }

    def valid_until(self) -> float:
        """Return when the first of all roles that this check has read expires, in Unix seconds."""
        return min(self.first_expiry(), *(_unix_s(targets) for targets in self._parsed.values()))

    def sync(self) -> None:
        """Make durable what python-tuf has stored: versions that were seen must not be forgotten by a power cut."""
        for folder in (self._folder, self._folder / "root_history"):
            for path in folder.glob("*.json"):
                sync_file(path)
            sync_folder(folder)

    def _targets(self, role: str) -> Targets:
        """Return a role that python-tuf has verified in this check, which it does once."""
        if role not in self._parsed:
            self._parsed[role] = Metadata[Targets].from_file(str(self._file(role))).signed
        return self._parsed[role]

    def _signed(self, role: str) -> Signed:
        return Metadata.from_file(str(self._file(role))).signed

    def _file(self, role: str) -> Path:
        return self._folder / f"{quote(role, '')}.json"

    def _check_time(self, role: str, signed: Signed) -> None:
        if signed.is_expired(datetime.fromtimestamp(self._believed, UTC)):
            expired = f"'{role}' expired on {signed.expires:%Y-%m-%d %H:%M}"
            raise refused("metadata-expired", f"{expired}, and it is {day(self._believed)} or later")


def _unix_s(signed: Signed) -> float:
    return signed.expires.replace(tzinfo=UTC).timestamp()


def _updater(folder: Path, root: Path, url: str, fetcher: FetcherInterface) -> Updater:
    """Start from the enrolment's root, or if that is lost from the copy that python-tuf keeps of it."""
    problem: FileMissingError | None = None
    for read in _roots(root, folder):
        try:
            bootstrap = read()
        except OSError:
            problem = problem or _root_lost(f"the trusted root '{root.name}' is missing")
            continue
        try:
            return Updater(str(folder), url, fetcher=fetcher, config=client_settings(), bootstrap=bootstrap)
        except RepositoryError as error:
            problem = problem or _root_lost(f"the trusted root '{root.name}' is damaged: {error}")
    assert problem is not None  # noqa: S101  the loop ran at least once
    raise problem


def _roots(root: Path, folder: Path) -> Iterator[Callable[[], bytes]]:
    yield root.read_bytes
    history = folder / "root_history"
    with suppress(OSError, ValueError):
        oldest = min(history.glob("*.root.json"), key=lambda path: int(path.name.partition(".")[0]))
        yield oldest.read_bytes


def _root_lost(message: str) -> FileMissingError:
    return FileMissingError(message, hint="enrol the device again")


def _next_roles(waiting: list[_Waiting], delegations: Delegations | None, path: str) -> list[_Waiting]:
    """Return who is searched next: the children in order, before whoever waits; a terminating one ends the search."""
    if delegations is None:
        return waiting
    children: list[_Waiting] = []
    for child, terminating in delegations.get_roles_for_target(path):
        role = delegations.succinct_roles if delegations.roles is None else delegations.roles[child]
        assert role is not None  # noqa: S101  it was just found there
        children.append(_Waiting(child, _keys_name(role)))
        if terminating:
            waiting = []
            break
    return [*waiting, *reversed(children)]


def _keys_name(role: Role) -> str:
    return sha256_hex(",".join([str(role.threshold), *sorted(role.keyids)]).encode())[:16]
