# SPDX-License-Identifier: Apache-2.0
"""Files that are no good bundle, and a release for boards that nobody has: one sentence, a remedy, nothing changed."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgefleet.contracts.bundle import BUNDLE_LIMIT_BYTES, open_bundle, pack
from edgefleet.contracts.manifest import ProfileReference
from fleet_emulation.testbed import APPROVERS, Testbed

HashOf = Callable[[Path], str]
Command = Callable[..., Any]
Sentence = Callable[[str, str], str]
BUNDLE_HINT = "use a bundle written by 'edgefleet convert', and fetch it again if it was copied"


def _entry(name: str, data: bytes = b"", **changes: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(data), 0o644
    for field, value in changes.items():
        setattr(info, field, value)
    return info, data


def _with(path: Path, *more: tuple[tarfile.TarInfo, bytes]) -> bytes:
    """Return a bundle with further members at its end."""
    out = io.BytesIO()
    with tarfile.open(path) as whole:
        for info in whole.getmembers():
            source = whole.extractfile(info)
            assert source is not None
            out.write(info.tobuf(tarfile.USTAR_FORMAT) + _padded(source.read()))
    for info, data in more:
        out.write(info.tobuf(tarfile.USTAR_FORMAT) + _padded(data))
    return out.getvalue() + bytes(1024)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


FILES: dict[str, tuple[Callable[[Path], bytes | int | None], str]] = {
    "missing": (lambda good: None, ""),
    "empty": (lambda good: b"", "is empty, not a bundle"),
    "truncated": (
        lambda good: good.read_bytes()[:-1024],
        "is truncated or damaged: a member's header or the end of the file is missing",
    ),
    "oversized": (
        lambda good: BUNDLE_LIMIT_BYTES + 1,
        f"is {BUNDLE_LIMIT_BYTES + 1} bytes, over the limit of {BUNDLE_LIMIT_BYTES}",
    ),
    "not a bundle": (lambda good: b"PK\3\4" * 512, "is not a bundle: it does not start with a ustar header"),
    "climbing out": (
        lambda good: _with(good, _entry("../x", b"evil")),
        "has a member with the path '../x'; paths are relative, plain and without '..'",
    ),
    "with a link": (
        lambda good: _with(good, _entry("model/link", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        "has a symbolic link ('model/link'); a bundle holds plain files only",
    ),
    "with a duplicate": (
        lambda good: _with(good, _entry("model/model.tflite", b"other")),
        "has the member 'model/model.tflite' twice",
    ),
    "with an unlisted member": (
        lambda good: _with(good, _entry("model/zz", b"other")),
        "has the member 'model/zz', which its manifest does not list",
    ),
}


@pytest.mark.parametrize("verb", ["verify", "publish"])
@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_good_bundle(
    edgefleet: Command, sentence: Sentence, case: str, verb: str, bed: Testbed, tmp_path: Path, hash_of: HashOf
) -> None:
    make, message = FILES[case]
    path = tmp_path / "b.bundle"
    content = make(bed.folder / "bundles" / "digits-1.0.0-linux-x86_64.bundle")
    if isinstance(content, int):
        path.touch()
        os.truncate(path, content)  # sparse: takes no room
    elif content is not None:
        path.write_bytes(content)
    expected = (3, sentence(f"'b.bundle' {message}", BUNDLE_HINT))
    if content is None:
        reason = f"cannot read the bundle '{path}': No such file or directory"
        expected = (2, sentence(reason, "check the path and its permissions"))
    before = (bed.api.get("releases"), hash_of(bed.server_data / "staging"), hash_of(bed.server_data / "targets"))
    publish = ("releases", "publish", path, "--policy", bed.folder / "policy.toml", "--home", bed.admin)
    said = edgefleet(*(publish if verb == "publish" else ("verify", path)))
    assert said == expected
    after = (bed.api.get("releases"), hash_of(bed.server_data / "staging"), hash_of(bed.server_data / "targets"))
    assert after == before
    assert sorted(tmp_path.iterdir()) == ([] if content is None else [path])


def test_a_release_for_boards_that_the_fleet_does_not_have_is_not_rolled_out(
    edgefleet: Command, sentence: Sentence, bed: Testbed, tmp_path: Path
) -> None:
    good = open_bundle(bed.folder / "bundles" / "digits-1.0.0-linux-x86_64.bundle")
    elsewhere = ProfileReference(id="raspberry-pi-4", compat_hash="0" * 64)
    manifest = msgspec.structs.replace(good.manifest, version="7.0.0", profile=elsewhere)
    bundle = tmp_path / "digits-7.0.0-raspberry-pi-4.bundle"
    bundle.write_bytes(pack(manifest, {path: good.read(path) for path in good.spans}))
    assert edgefleet("verify", bundle, "--profile", "linux-x86_64") == (
        3,
        sentence(
            "the bundle digits 7.0.0 is for profile 'raspberry-pi-4', not for 'linux-x86_64'",
            "use the release's bundle for 'linux-x86_64', or convert the model for it",
        ),
    )
    policy = ("--policy", bed.folder / "policy.toml", "--home", bed.admin)
    assert edgefleet("releases", "publish", bundle, *policy).status == 0
    for person in APPROVERS:
        home = bed.home(person)
        key = ("--key", person, "--passphrase-file", home / "passphrase", "--yes", "--home", home)
        assert edgefleet("releases", "approve", "digits", "7.0.0", *key).status == 0
    before = bed.api.get("rollouts")
    assert edgefleet("rollouts", "create", "digits", "7.0.0", "--home", bed.admin) == (
        3,
        sentence(
            "release digits 7.0.0 is for raspberry-pi-4, and no enrolled device has such a profile",
            "convert and publish a bundle for the fleet's profiles",
        ),
    )
    assert bed.api.get("rollouts") == before
