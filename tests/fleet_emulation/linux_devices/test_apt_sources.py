# SPDX-License-Identifier: Apache-2.0
"""Where arm64 packages come from: what /etc/apt says of the machine's own Debian, or a file of the user's."""

import re
from pathlib import Path

import pytest

from edgefleet.contracts.errors import FileMissingError, SettingError
from fleet_emulation.linux_devices.apt_sources import SOURCES_VARIABLE, Source, arm64_sources

STANZAS = """\
Types: deb deb-src
# a comment
URIs: http://deb.example/debian
Suites: bookworm bookworm-updates bookworm-backports
Components: main contrib
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://deb.example/security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 mQINBF
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://node.example/
Suites: nodistro
Components: main

Enabled: no
Types: deb
URIs: http://off.example/
Suites: bookworm
Components: main
"""
LINES = """\
# deb http://old.example/debian bookworm main
deb [arch=amd64 signed-by=/usr/share/keyrings/d.gpg] http://deb.example/debian bookworm main non-free # nearest
deb-src http://deb.example/debian bookworm main
deb http://deb.example/debian trixie main
"""


@pytest.fixture(name="etc")
def _etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(SOURCES_VARIABLE, raising=False)
    etc = tmp_path / "etc"
    (etc / "apt/sources.list.d").mkdir(parents=True)
    (etc / "os-release").write_text('NAME="Debian GNU/Linux"\nID=debian\nVERSION_CODENAME=bookworm\n')
    return etc


def test_of_a_debian_machines_sources_those_of_its_own_release_serve(etc: Path) -> None:
    (etc / "apt/sources.list.d/debian.sources").write_text(STANZAS)
    key = "\n -----BEGIN PGP PUBLIC KEY BLOCK-----\n .\n mQINBF\n -----END PGP PUBLIC KEY BLOCK-----"
    main = Source(
        "http://deb.example/debian", ("bookworm", "bookworm-updates"), "main", "/usr/share/keyrings/debian.gpg"
    )
    assert arm64_sources(etc) == [main, Source("http://deb.example/security", ("bookworm-security",), "main", key)]


def test_one_line_sources_serve_as_well(etc: Path) -> None:
    (etc / "apt/sources.list").write_text(LINES)
    found = arm64_sources(etc)
    assert found == [Source("http://deb.example/debian", ("bookworm",), "main", "/usr/share/keyrings/d.gpg")]
    assert found[0].stanza() == (
        "Types: deb\nURIs: http://deb.example/debian\nSuites: bookworm\nComponents: main\n"
        "Signed-By: /usr/share/keyrings/d.gpg\n"
    )


def test_another_system_is_told_to_name_debians_sources(etc: Path) -> None:
    (etc / "os-release").write_text("ID=ubuntu\nVERSION_CODENAME=noble\n")
    with pytest.raises(SettingError) as raised:
        arm64_sources(etc)
    assert raised.value.message == "arm64 devices are made from Debian's packages, and this machine runs 'ubuntu'"
    assert raised.value.hint == f"write a sources.list of a Debian release and name it with {SOURCES_VARIABLE}"


def test_a_machine_that_says_nothing_of_itself_is_told_the_same(tmp_path: Path, etc: Path) -> None:
    with pytest.raises(SettingError, match=r"this machine runs 'something unknown'$"):
        arm64_sources(tmp_path / "none")


def test_a_debian_machine_without_sources_of_its_release_says_so(etc: Path) -> None:
    (etc / "apt/sources.list").write_text("deb http://deb.example/debian trixie main\n")
    with pytest.raises(SettingError, match=re.escape(f"'{etc}/apt' names no packages of Debian bookworm")):
        arm64_sources(etc)


def test_a_users_own_file_is_taken_as_it_is(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (etc / "mine.list").write_text("deb http://mine.example/debian trixie main\n")
    monkeypatch.setenv(SOURCES_VARIABLE, str(etc / "mine.list"))
    assert arm64_sources(etc) == [Source("http://mine.example/debian", ("trixie",), "main")]


def test_a_users_own_file_that_cannot_be_used_is_named(etc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SOURCES_VARIABLE, str(etc / "none.list"))
    with pytest.raises(FileMissingError, match=re.escape(f"cannot read the sources '{etc}/none.list'")):
        arm64_sources(etc)
    (etc / "none.list").write_text("nothing here\n")
    with pytest.raises(SettingError, match=re.escape(f"'{etc}/none.list' names no sources of packages")):
        arm64_sources(etc)
