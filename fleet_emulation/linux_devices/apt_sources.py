# SPDX-License-Identifier: Apache-2.0
"""Where this machine gets Debian's packages from: the same places serve the arm64 ones.

Nothing here names a server. ``/etc/apt`` does, or a file of the user's that :data:`SOURCES_VARIABLE` names, which is
needed where the machine runs another system than Debian.
"""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edgefleet.contracts.errors import FileMissingError, SettingError

#: Names a file with the sources to use, in either of apt's formats (sources.list(5)).
SOURCES_VARIABLE = "EDGEFLEET_ARM64_SOURCES"
_ETC = Path("/etc")
_ONE_LINE = re.compile(r"deb\s+(?:\[(?P<options>[^]]*)\]\s+)?(?P<uri>\S+)\s+(?P<suite>\S+)\s+(?P<components>.+)")
_SUITE_ENDINGS = ("", "-updates", "-security")


class Source(NamedTuple):
    """One source of packages; ``signed_by`` is a keyring's path, or a whole key, or empty."""

    uris: str
    suites: tuple[str, ...]
    components: str
    signed_by: str = ""

    def stanza(self) -> str:
        """Return it in apt's newer format."""
        lines = [f"Types: deb\nURIs: {self.uris}\nSuites: {' '.join(self.suites)}\nComponents: {self.components}"]
        lines += [f"Signed-By: {self.signed_by}"] if self.signed_by else []
        return "\n".join(lines) + "\n"


class Distribution(NamedTuple):
    """What ``/etc/os-release`` says."""

    id: str
    codename: str


def distribution(etc: Path = _ETC) -> Distribution:
    """Return which system this machine runs; empty words where it does not say."""
    try:
        lines = (etc / "os-release").read_text().splitlines()
    except OSError:
        lines = []
    facts = {name: value.strip().strip("\"'") for name, _, value in (line.partition("=") for line in lines)}
    return Distribution(facts.get("ID", ""), facts.get("VERSION_CODENAME", ""))


def arm64_sources(etc: Path = _ETC) -> list[Source]:
    """Return the sources of arm64 packages: the user's own file, else this machine's sources of its Debian release.

    Raises:
        SettingError: this is no Debian, or names no sources of its release.
        FileMissingError: the user's file cannot be read.
    """
    own = os.environ.get(SOURCES_VARIABLE)
    if own:
        return _users_own(Path(own))
    system = distribution(etc)
    if system.id != "debian":
        name = system.id or "something unknown"
        raise SettingError(
            f"arm64 devices are made from Debian's packages, and this machine runs '{name}'",
            hint=f"write a sources.list of a Debian release and name it with {SOURCES_VARIABLE}",
        )
    found = [_narrowed(source, system.codename) for path in _files(etc / "apt") for source in read_sources(path)]
    if not any(found):
        raise SettingError(
            f"'{etc / 'apt'}' names no packages of Debian {system.codename}",
            hint=f"name a file with sources with {SOURCES_VARIABLE}",
        )
    return [source for source in found if source]


def _users_own(path: Path) -> list[Source]:
    try:
        found = list(read_sources(path))
    except OSError as error:
        raise FileMissingError(
            f"cannot read the sources '{path}': {error.strerror}", hint=f"correct {SOURCES_VARIABLE}"
        ) from error
    if not found:
        raise SettingError(
            f"'{path}' names no sources of packages",
            hint="write one, such as: deb URI bookworm main; see sources.list(5)",
        )
    return found


def _files(apt: Path) -> Iterator[Path]:
    yield from (path for path in [apt / "sources.list"] if path.is_file())
    yield from sorted((apt / "sources.list.d").glob("*.list"))
    yield from sorted((apt / "sources.list.d").glob("*.sources"))


def _narrowed(source: Source, codename: str) -> Source | None:
    """Return what a source has of Debian itself: other programs' sources seldom have arm64 packages."""
    suites = tuple(suite for suite in source.suites if suite in [codename + ending for ending in _SUITE_ENDINGS])
    if not suites or "main" not in source.components.split():
        return None
    return source._replace(suites=suites, components="main")


def read_sources(path: Path) -> Iterator[Source]:
    """Yield what a file of either format names; what is switched off, or not binary packages, is left out."""
    text = path.read_text(errors="replace")
    if re.search(r"^types:", text, re.IGNORECASE | re.MULTILINE):
        yield from (found for part in re.split(r"\n\s*\n", text) if (found := _from_stanza(part)))
        return
    for line in text.splitlines():
        if match := _ONE_LINE.match(line.partition("#")[0].strip()):
            signed_by = re.search(r"signed-by=(\S+)", match["options"] or "", re.IGNORECASE)
            yield Source(match["uri"], (match["suite"],), match["components"], signed_by[1] if signed_by else "")


def _from_stanza(text: str) -> Source | None:
    fields: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if line[:1].isspace():
            fields[name] = f"{fields.get(name, '')}\n{line.rstrip()}"
        else:
            name, _, value = line.partition(":")
            name = name.strip().lower()
            fields[name] = value.strip()
    switched_off = fields.get("enabled", "yes").lower() in ("no", "false", "0")
    if switched_off or "deb" not in fields.get("types", "").split():
        return None
    suites = tuple(fields.get("suites", "").split())
    return Source(
        " ".join(fields.get("uris", "").split()), suites, fields.get("components", ""), fields.get("signed-by", "")
    )
