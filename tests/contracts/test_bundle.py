# SPDX-License-Identifier: Apache-2.0
"""The bundle format: reproducible to the byte, and strictly read."""

import hashlib
import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet.contracts.bundle import Bundle, describe_members, open_bundle, pack
from edgefleet.contracts.canonical import canonical_json
from edgefleet.contracts.errors import BundleError, FileMissingError
from edgefleet.contracts.manifest import Manifest

Write = Callable[[bytes], Path]


def _tar(entries: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    out = io.BytesIO()
    for info, data in entries:
        info.size = len(data)
        out.write(info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % 512))
    return out.getvalue() + bytes(1024)


def _entry(path: str, data: bytes, **attributes: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(path)
    info.mode = 0o644
    for name, value in attributes.items():
        setattr(info, name, value)
    return info, data


def _entries(parts: Any) -> list[tuple[tarfile.TarInfo, bytes]]:
    manifest = canonical_json(parts.manifest)
    return [_entry("manifest.json", manifest), *(_entry(p, d) for p, d in sorted(parts.members.items()))]


def _refusal(path: Path) -> str:
    with pytest.raises(BundleError) as caught:
        open_bundle(path)
    assert caught.value.hint == "use a bundle written by 'edgefleet convert', and fetch it again if it was copied"
    assert caught.value.exit_status == 3
    return caught.value.message


def test_a_packed_bundle_reads_back(parts: Any, packed: bytes, written: Write) -> None:
    bundle = open_bundle(written(packed))
    assert bundle.manifest == parts.manifest
    assert bundle.sha256 == hashlib.sha256(packed).hexdigest()
    assert {path: bundle.read(path) for path in bundle.spans} == parts.members


def test_any_tar_program_reads_a_bundle(parts: Any, packed: bytes) -> None:
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        names = archive.getnames()
        assert names == ["manifest.json", *sorted(parts.members)]
        assert {(m.mode, m.uid, m.gid, m.mtime, m.uname) for m in archive} == {(0o644, 0, 0, 0, "")}


def test_packing_twice_in_another_order_gives_the_same_bytes(parts: Any, packed: bytes) -> None:
    assert pack(parts.manifest, dict(reversed(parts.members.items()))) == packed


def test_packing_refuses_members_that_the_manifest_does_not_list(parts: Any) -> None:
    with pytest.raises(BundleError, match="the members to pack are not those that the manifest lists"):
        pack(parts.manifest, {**parts.members, "model/extra": b""})


def test_a_missing_file_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(FileMissingError) as caught:
        open_bundle(tmp_path / "none.bundle")
    assert caught.value.message == f"cannot read the bundle '{tmp_path}/none.bundle': No such file or directory"
    assert caught.value.exit_status == 2


def test_a_file_over_the_limit_is_refused(packed: bytes, written: Write) -> None:
    with pytest.raises(BundleError) as caught:
        open_bundle(written(packed), limit_bytes=1000)
    assert caught.value.message == f"'x.bundle' is {len(packed)} bytes, over the limit of 1000"


def test_a_member_that_changed_since_is_not_read(packed: bytes, written: Write) -> None:
    path = written(packed)
    bundle = open_bundle(path)
    path.write_bytes(packed.replace(b"contract", b"contracT"))
    with pytest.raises(BundleError) as caught:
        bundle.read("model/model.tflite")
    assert caught.value.message == (
        "'x.bundle' member 'model/model.tflite' changed on disk since the bundle was verified"
    )


HOSTILE: dict[str, tuple[Callable[[Any], list[tuple[tarfile.TarInfo, bytes]]], str]] = {
    "a path that climbs out": (
        lambda p: [*_entries(p), _entry("../x", b"")],
        "has a member with the path '../x'; paths are relative, plain and without '..'",
    ),
    "an absolute path": (
        lambda p: [*_entries(p), _entry("/etc/passwd", b"")],
        "has a member with the path '/etc/passwd'; paths are relative, plain and without '..'",
    ),
    "a hidden climb": (
        lambda p: [*_entries(p), _entry("model/../../x", b"")],
        "has a member with the path 'model/../../x'; paths are relative, plain and without '..'",
    ),
    "a symbolic link": (
        lambda p: [*_entries(p), _entry("model/link", b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")],
        "has a symbolic link ('model/link'); a bundle holds plain files only",
    ),
    "a hard link": (
        lambda p: [*_entries(p), _entry("model/link", b"", type=tarfile.LNKTYPE, linkname="manifest.json")],
        "has a hard link ('model/link'); a bundle holds plain files only",
    ),
    "a folder": (
        lambda p: [*_entries(p), _entry("model", b"", type=tarfile.DIRTYPE)],
        "has a folder ('model/'); a bundle holds plain files only",
    ),
    "a duplicate": (
        lambda p: [*_entries(p), _entry("model/model.tflite", b"other")],
        "has the member 'model/model.tflite' twice",
    ),
    "a member that is not listed": (
        lambda p: [*_entries(p), _entry("model/zz", b"other")],
        "has the member 'model/zz', which its manifest does not list",
    ),
    "a member that is missing": (
        lambda p: _entries(p)[:-1],
        "lacks the member 'model/model.tflite', which its manifest lists",
    ),
    "a changed member": (
        lambda p: [*_entries(p)[:-1], _entry("model/model.tflite", bytes(len(p.members["model/model.tflite"])))],
        "has a member 'model/model.tflite' whose SHA-256 is not the manifest's",
    ),
    "another order": (
        lambda p: [_entries(p)[0], *reversed(_entries(p)[1:])],
        "has its members in another order than sorted by path",
    ),
    "no manifest first": (
        lambda p: _entries(p)[1:],
        "starts with the member 'MODEL_CARD.md', where 'manifest.json' belongs",
    ),
    "a time stamp": (
        lambda p: [_entries(p)[0], _entry("MODEL_CARD.md", b"# Card\n", mtime=5), *_entries(p)[2:]],
        "has attributes for the member 'MODEL_CARD.md' that a bundle may not have",
    ),
    "too many members": (
        lambda p: [*_entries(p), *(_entry(f"model/z{i}", b"") for i in range(80))],
        "has more than 64 members",
    ),
    "a huge manifest": (
        lambda p: [_entry("manifest.json", bytes(2 << 20))],
        "has a manifest of 2097152 bytes, over the limit of 1048576",
    ),
    "a manifest that is not canonical": (
        lambda p: [
            _entry("manifest.json", msgspec.json.format(canonical_json(p.manifest))),
            *_entries(p)[1:],
        ],
        "has a manifest that is not canonical JSON (RFC 8785)",
    ),
    "a manifest with an unknown field": (
        lambda p: [
            _entry("manifest.json", canonical_json({**msgspec.to_builtins(p.manifest), "zzz": 1})),
            *_entries(p)[1:],
        ],
        "has a manifest that breaks the schema: Object contains unknown field `zzz`",
    ),
    "a manifest of another format version": (
        lambda p: [_entry("manifest.json", b'{"format_version":2}')],
        "has format version 2; this EdgeFleet reads version 1",
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_bundle_is_refused_in_one_sentence(case: str, parts: Any, written: Write) -> None:
    make, expected = HOSTILE[case]
    assert _refusal(written(_tar(make(parts)))) == f"'x.bundle' {expected}"


def test_something_else_is_not_a_bundle(written: Write) -> None:
    assert _refusal(written(b"")) == "'x.bundle' is empty, not a bundle"
    assert _refusal(written(b"PK\x03\x04" * 400)) == (
        "'x.bundle' is not a bundle: it does not start with a ustar header"
    )


def test_a_bundle_with_bytes_behind_its_end_is_refused(packed: bytes, written: Write) -> None:
    assert _refusal(written(packed + bytes(512))) == "'x.bundle' has bytes behind its end"


def test_a_bundle_cut_at_any_place_is_refused(packed: bytes, written: Write) -> None:
    for size in range(0, len(packed), 97):
        assert _refusal(written(packed[:size])).startswith("'x.bundle' ")


@given(position=st.integers(min_value=0), flip=st.integers(min_value=1, max_value=255))
def test_a_changed_byte_is_refused_or_makes_another_bundle(position: int, flip: int, tmp_path_factory: Any) -> None:
    packed = _valid_bundle()
    changed = bytearray(packed)
    changed[position % len(packed)] ^= flip
    path = tmp_path_factory.mktemp("flip") / "x.bundle"
    path.write_bytes(bytes(changed))
    try:
        bundle = open_bundle(path)
    except BundleError:
        return
    assert bundle.sha256 != hashlib.sha256(packed).hexdigest()
    assert canonical_json(bundle.manifest) not in packed


@given(data=st.binary(max_size=3000))
def test_arbitrary_bytes_never_crash_the_reader(data: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("any") / "x.bundle"
    path.write_bytes(data)
    with pytest.raises(BundleError):
        open_bundle(path)


def _valid_bundle() -> bytes:
    """Return one valid bundle for property tests, which cannot take function-scoped fixtures."""
    members = {"model/m": b"m" * 700, "golden/i": b"1234", "golden/o": b"56"}
    document: dict[str, Any] = {
        "format_version": 1,
        "name": "digits",
        "version": "1.0.0",
        "task": "classification",
        "metric": "accuracy",
        "precision": "int8",
        "profile": {"id": "linux-x86_64", "compat_hash": "ab" * 32},
        "runtime": {"kind": "litert", "minimum_version": "2.0.0", "numerics": "litert/1"},
        "interface": {
            "inputs": [{"name": "in", "shape": [1, 4], "dtype": "int8", "scale": 0.5, "zero_point": 0}],
            "outputs": [{"name": "out", "shape": [1, 2], "dtype": "int8", "scale": 0.5, "zero_point": 0}],
        },
        "preprocessing": {},
        "tolerances": {"unit": "lsb", "reference": 0.0, "production": 2.0},
        "budgets": {},
        "parity": {"samples": 1, "inputs": ["golden/i"], "outputs": ["golden/o"]},
        "model": "model/m",
        "members": msgspec.to_builtins(describe_members(members)),
        "lineage": {"source_sha256": "cd" * 32, "recipe_sha256": "ef" * 32},
    }
    return pack(msgspec.convert(document, Manifest), members)


def test_the_manifest_must_name_members_that_exist(parts: Any, written: Write) -> None:
    broken = msgspec.structs.replace(parts.manifest, model="model/other.tflite")
    entries = [_entry("manifest.json", canonical_json(broken)), *_entries(parts)[1:]]
    assert _refusal(written(_tar(entries))) == (
        "'x.bundle' names 'model/other.tflite' in its manifest, which is not a member"
    )


def test_a_bundle_is_a_value(packed: bytes, written: Write) -> None:
    path = written(packed)
    assert isinstance(open_bundle(path), Bundle)
    assert open_bundle(path) == open_bundle(path)


def test_what_cannot_be_read_at_any_place_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.bundle")
    with pytest.raises(FileMissingError) as caught:
        open_bundle(tmp_path / "a.bundle")
    assert caught.value.message == f"cannot read the bundle '{tmp_path}/a.bundle': it is no regular file"


def test_a_bundle_from_before_a_field_was_thought_of_is_read(parts: Any, written: Write) -> None:
    facts = msgspec.to_builtins(parts.manifest)
    older = {name: value for name, value in facts.items() if name not in ("execution", "arena")}
    assert len(older) == len(facts) - 2
    manifest = open_bundle(
        written(_tar([_entry("manifest.json", canonical_json(older)), *_entries(parts)[1:]]))
    ).manifest
    assert (manifest.execution, manifest.arena) == ("proved", None)
