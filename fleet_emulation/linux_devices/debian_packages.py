# SPDX-License-Identifier: Apache-2.0
"""Debian's arm64 packages, downloaded and checked by apt with folders of its own, and unpacked: no root, no emulation.

This machine's apt settings for downloads (proxies, certificates) hold; its state, hooks and other sources do not.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from edgefleet.contracts.errors import UnreachableError
from fleet_emulation.linux_devices.apt_sources import Source
from fleet_emulation.linux_devices.programs import ProgramFailedError, program, run_program

_LIMIT_S = 300.0
_WHAT = "Debian's arm64 packages cannot be fetched"


class Apt:
    """apt for arm64, which keeps everything below ``folder``."""

    def __init__(self, folder: Path, sources: Sequence[Source]) -> None:
        self._folder = folder
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True)
        (folder / "status").touch()
        (folder / "arm64.sources").write_text("\n".join(source.stanza() for source in sources))
        settings = _own_settings(folder) + _settings_for_downloads()
        (folder / "apt.conf").write_text("\n".join(settings) + "\n")
        self._environment = {"APT_CONFIG": str(folder / "apt.conf"), "LC_ALL": "C"}

    def update(self) -> None:
        """Fetch the lists of packages, signed by Debian.

        Raises:
            UnreachableError: they cannot be fetched, or are not signed by whom they should.
        """
        self._apt_get("update", "--error-on=any")

    def download(self, packages: Iterable[str]) -> list[Path]:
        """Fetch packages and all that they depend on, and return the files."""
        self._apt_get("install", "--yes", "--no-install-recommends", "--download-only", *packages)
        return sorted((self._folder / "cache" / "archives").glob("*.deb"))

    def download_alone(self, package: str) -> Path:
        """Fetch one package without what it depends on, and return the file."""
        folder = self._folder / "alone"
        folder.mkdir(exist_ok=True)
        self._apt_get("download", package, folder=folder)
        return next(folder.glob(f"{package}_*.deb"))

    def depends(self, package: str) -> list[str]:
        """Return the names of the packages that one depends on directly."""
        command = [program("apt-cache"), "depends", "--important", package]
        said = run_program(command, what=_WHAT, limit_s=_LIMIT_S, environment=self._environment)
        return [line.split()[1] for line in said.splitlines() if line.strip().startswith("Depends:")]

    def _apt_get(self, *words: str, folder: Path | None = None) -> None:
        command = [program("apt-get"), *words]
        try:
            run_program(command, what=_WHAT, limit_s=_LIMIT_S, environment=self._environment, folder=folder)
        except ProgramFailedError as error:
            raise UnreachableError(error.message, hint="connect this machine to the network once") from error


def unpack(package: Path, folder: Path) -> None:
    """Unpack a package's files; its scripts are not run.

    Raises:
        ProgramFailedError: it is damaged, or the disk is full.
    """
    run_program(
        [program("dpkg-deb"), "--extract", str(package), str(folder)],
        what=f"cannot unpack {package.name}",
        limit_s=_LIMIT_S,
    )


def _own_settings(folder: Path) -> list[str]:
    return [
        f'Dir::State "{folder}/";',
        f'Dir::State::status "{folder}/status";',
        f'Dir::State::lists "{folder}/lists";',
        f'Dir::Cache "{folder}/cache";',
        f'Dir::Etc::sourcelist "{folder}/arm64.sources";',
        'Dir::Etc::sourceparts "-";',
        'Dir::Etc::parts "-";',
        'Dir::Etc::main "-";',
        'APT::Architecture "arm64";',
        'APT::Architectures { "arm64"; };',
        'APT::Sandbox::User "";',
        'Acquire::Languages "none";',
        'Acquire::Retries "2";',
        'Acquire::http::Timeout "20";',
        'Acquire::https::Timeout "20";',
    ]


def _settings_for_downloads() -> list[str]:
    """Return how this machine's own apt reaches servers."""
    said = run_program([program("apt-config"), "dump"], what="cannot read apt's settings", limit_s=_LIMIT_S)
    return [line for line in said.splitlines() if line.startswith("Acquire::") and "IndexTargets" not in line]
