# SPDX-License-Identifier: Apache-2.0
"""Write and strictly read bundles: one uncompressed ustar file, the same bytes for the same facts.

The rules that the reader keeps, in this order, before anything is written anywhere:

1. The file is a whole number of 512-byte blocks, at least one member long, and no larger than the limit.
2. Each header is, byte for byte, the one header that the writer makes for that path and size (ustar, mode 0644,
   uid, gid and mtime 0, no owner). So there are no links, folders, devices, extensions or other attributes.
3. Paths are relative, without ``.`` or ``..``, of at most 100 bytes, and none comes twice.
4. ``manifest.json`` comes first, is at most 1 MiB, is canonical JSON (RFC 8785) and fits the schema.
5. The other members are exactly those of the manifest's list, sorted by path, with the sizes and SHA-256 it says.
6. Padding is zero, two zero blocks end the file, and nothing follows.
"""

import hashlib
import io
import re
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import msgspec

from edgefleet.contracts.canonical import canonical_json, sha256_hex
from edgefleet.contracts.errors import BundleError, FileMissingError
from edgefleet.contracts.manifest import (
    FORMAT_VERSION,
    MANIFEST_PATH,
    MEMBER_PATH_PATTERN,
    Manifest,
    Member,
)

BLOCK_BYTES = 512
MANIFEST_LIMIT_BYTES = 1 << 20
MEMBER_LIMIT = 64
BUNDLE_LIMIT_BYTES = 512 << 20
_END = bytes(2 * BLOCK_BYTES)
_CHUNK_BYTES = 1 << 20
_MEMBER_PATH = re.compile(MEMBER_PATH_PATTERN)
_TYPE_NAMES = {
    b"1": "a hard link",
    b"2": "a symbolic link",
    b"3": "a character device",
    b"4": "a block device",
    b"5": "a folder",
    b"6": "a FIFO",
}
_HINT = "use a bundle written by 'edgefleet convert', and fetch it again if it was copied"


@dataclass(frozen=True)
class MemberSpan:
    """Where a member's bytes lie in the bundle file."""

    path: str
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class Bundle:
    """A bundle file that kept every rule of the format.

    ``sha256`` and ``size_bytes`` are the whole file's; ``spans`` say where each member lies, so that a model can
    be read or mapped without unpacking.
    """

    path: Path
    manifest: Manifest
    sha256: str
    size_bytes: int
    spans: Mapping[str, MemberSpan]

    def read(self, member_path: str) -> bytes:
        """Return one member's bytes, hashed again (the file may have changed since it was opened)."""
        if member_path not in self.spans:
            raise _refused(self.path, f"has no member '{member_path}'")
        span = self.spans[member_path]
        with _opened(self.path) as stream:
            stream.seek(span.offset)
            data = stream.read(span.size_bytes)
        expected = next(m.sha256 for m in self.manifest.members if m.path == member_path)
        if sha256_hex(data) != expected:
            raise _refused(self.path, f"member '{member_path}' changed on disk since the bundle was verified")
        return data


def describe_members(members: Mapping[str, bytes]) -> tuple[Member, ...]:
    """Return the manifest's sorted member list for ``members`` (path to content)."""
    return tuple(
        Member(path=path, sha256=sha256_hex(data), size_bytes=len(data)) for path, data in sorted(members.items())
    )


def pack(manifest: Manifest, members: Mapping[str, bytes]) -> bytes:
    """Return the bundle file for a manifest and its members; equal arguments give equal bytes.

    Raises:
        BundleError: ``members`` are not those that the manifest lists, or a limit or path rule is broken.
    """
    if manifest.members != describe_members(members):
        raise BundleError(
            "the members to pack are not those that the manifest lists",
            hint="build the manifest's members with describe_members()",
        )
    manifest_bytes = canonical_json(manifest)
    out = io.BytesIO()
    for path, data in [(MANIFEST_PATH, manifest_bytes), *sorted(members.items())]:
        out.write(_header(path, len(data)))
        out.write(data)
        out.write(bytes(-len(data) % BLOCK_BYTES))
    out.write(_END)
    packed = out.getvalue()
    _read(io.BytesIO(packed), Path(f"{manifest.name}-{manifest.version}"), BUNDLE_LIMIT_BYTES)
    return packed


def open_bundle(path: Path, *, limit_bytes: int = BUNDLE_LIMIT_BYTES) -> Bundle:
    """Read a bundle file through and return it, or refuse it by the first rule that it breaks.

    Raises:
        FileMissingError: there is no such file.
        BundleError: the file breaks a rule of the format.
    """
    with _opened(path) as stream:
        return _read(stream, path, limit_bytes)


def _opened(path: Path) -> BinaryIO:
    try:
        return _open_regular(path)
    except OSError as error:
        raise FileMissingError(
            f"cannot read the bundle '{path}': {error.strerror or error}",
            hint="check the path and its permissions",
        ) from error


def _open_regular(path: Path) -> BinaryIO:
    """Open a file that can be read at any place; opening a FIFO would wait for ever."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # for a folder, open() has the system's own words
        raise OSError("it is no regular file")
    return path.open("rb")


def _refused(path: Path, what: str) -> BundleError:
    return BundleError(f"'{path.name}' {what}", hint=_HINT)


def _header(path: str, size_bytes: int) -> bytes:
    info = tarfile.TarInfo(path)
    info.size = size_bytes
    info.mode = 0o644
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def _read(stream: BinaryIO, path: Path, limit_bytes: int) -> Bundle:
    size_bytes = stream.seek(0, io.SEEK_END)
    stream.seek(0)
    _check_file_size(path, size_bytes, limit_bytes)
    whole = hashlib.sha256()
    spans: dict[str, MemberSpan] = {}
    hashes: dict[str, str] = {}
    manifest: Manifest | None = None
    for span, header in _headers(stream, path, size_bytes):
        whole.update(header)
        if span.path in spans:
            raise _refused(path, f"has the member '{span.path}' twice")
        if not spans:
            manifest_bytes = _first_member(stream, path, span)
            whole.update(manifest_bytes)
            manifest = _decode_manifest(path, manifest_bytes)
        else:
            hashes[span.path] = _hash_member(stream, span, whole)
        padding = stream.read(-span.size_bytes % BLOCK_BYTES)
        if padding.strip(b"\0"):
            raise _refused(path, f"has bytes other than zero behind the member '{span.path}'")
        whole.update(padding)
        spans[span.path] = span
    if manifest is None:
        raise _refused(path, "has no members")
    whole.update(_END)
    del spans[MANIFEST_PATH]
    _check_against_manifest(path, manifest, spans, hashes)
    return Bundle(path=path, manifest=manifest, sha256=whole.hexdigest(), size_bytes=size_bytes, spans=spans)


def _check_file_size(path: Path, size_bytes: int, limit_bytes: int) -> None:
    if size_bytes == 0:
        raise _refused(path, "is empty, not a bundle")
    if size_bytes > limit_bytes:
        raise _refused(path, f"is {size_bytes} bytes, over the limit of {limit_bytes}")


def _headers(stream: BinaryIO, path: Path, size_bytes: int) -> Iterator[tuple[MemberSpan, bytes]]:
    """Yield each member's span and header, with the stream at the member's first byte, up to the end blocks."""
    count = 0
    while True:
        header = stream.read(BLOCK_BYTES)
        if header == bytes(BLOCK_BYTES):
            break
        if len(header) < BLOCK_BYTES or (count and header[257:262] != b"ustar"):
            raise _refused(path, "is truncated or damaged: a member's header or the end of the file is missing")
        if header[257:262] != b"ustar":
            raise _refused(path, "is not a bundle: it does not start with a ustar header")
        count += 1
        if count > MEMBER_LIMIT:
            raise _refused(path, f"has more than {MEMBER_LIMIT} members")
        span = _parse_header(header, path, stream.tell())
        if span.offset + span.size_bytes > size_bytes:
            raise _refused(path, f"is truncated: the member '{span.path}' ends behind the end of the file")
        yield span, header
    if stream.read(BLOCK_BYTES) != bytes(BLOCK_BYTES):
        raise _refused(path, "is truncated: it does not end in two zero blocks")
    if stream.read(1):
        raise _refused(path, "has bytes behind its end")


def _parse_header(header: bytes, path: Path, offset: int) -> MemberSpan:
    name = header[:100].rstrip(b"\0").decode("ascii", "replace")
    kind = header[156:157]
    if kind in _TYPE_NAMES:
        raise _refused(path, f"has {_TYPE_NAMES[kind]} ('{name}'); a bundle holds plain files only")
    if not _MEMBER_PATH.fullmatch(name):
        raise _refused(path, f"has a member with the path '{name}'; paths are relative, plain and without '..'")
    try:
        size_bytes = int(header[124:135], 8)
    except ValueError:
        raise _refused(path, f"has no readable size for the member '{name}'") from None
    if header != _header(name, size_bytes):
        raise _refused(path, f"has attributes for the member '{name}' that a bundle may not have")
    return MemberSpan(path=name, offset=offset, size_bytes=size_bytes)


def _first_member(stream: BinaryIO, path: Path, span: MemberSpan) -> bytes:
    if span.path != MANIFEST_PATH:
        raise _refused(path, f"starts with the member '{span.path}', where '{MANIFEST_PATH}' belongs")
    if span.size_bytes > MANIFEST_LIMIT_BYTES:
        raise _refused(path, f"has a manifest of {span.size_bytes} bytes, over the limit of {MANIFEST_LIMIT_BYTES}")
    return stream.read(span.size_bytes)


def _decode_manifest(path: Path, data: bytes) -> Manifest:
    try:
        version = msgspec.json.decode(data, type=_FormatVersion).format_version
        if version != FORMAT_VERSION:
            raise _refused(path, f"has format version {version}; this EdgeFleet reads version {FORMAT_VERSION}")
        manifest = msgspec.json.decode(data, type=Manifest)
        canonical = canonical_json(msgspec.json.decode(data))  # not the manifest: older bundles lack younger fields
    except (ValueError, RecursionError) as error:  # msgspec's errors and rfc8785's derive from ValueError
        raise _refused(path, f"has a manifest that breaks the schema: {error}") from error
    if canonical != data:
        raise _refused(path, "has a manifest that is not canonical JSON (RFC 8785)")
    return manifest


class _FormatVersion(msgspec.Struct):
    format_version: int


def _hash_member(stream: BinaryIO, span: MemberSpan, whole: "hashlib._Hash") -> str:
    digest = hashlib.sha256()
    left = span.size_bytes
    while left:
        piece = stream.read(min(left, _CHUNK_BYTES))
        if not piece:
            break  # the file shrank while it was read: the hash will not match
        digest.update(piece)
        whole.update(piece)
        left -= len(piece)
    return digest.hexdigest()


def _check_against_manifest(
    path: Path, manifest: Manifest, spans: Mapping[str, MemberSpan], hashes: Mapping[str, str]
) -> None:
    listed = [member.path for member in manifest.members]
    for name in spans:
        if name not in listed:
            raise _refused(path, f"has the member '{name}', which its manifest does not list")
    for member in manifest.members:
        if member.path not in spans:
            raise _refused(path, f"lacks the member '{member.path}', which its manifest lists")
        if spans[member.path].size_bytes != member.size_bytes or hashes[member.path] != member.sha256:
            raise _refused(path, f"has a member '{member.path}' whose SHA-256 is not the manifest's")
    if listed != sorted(listed) or list(spans) != listed:
        raise _refused(path, "has its members in another order than sorted by path")
    _check_references(path, manifest)


def _check_references(path: Path, manifest: Manifest) -> None:
    """Refuse a manifest whose model, parity vectors or acceptance examples are not members."""
    listed = {member.path: member for member in manifest.members}
    needed = [manifest.model, *manifest.parity.inputs, *manifest.parity.outputs]
    if manifest.acceptance is not None:
        needed.append(manifest.acceptance.path)
    for name in needed:
        if name not in listed:
            raise _refused(path, f"names '{name}' in its manifest, which is not a member")
    if manifest.acceptance is not None and listed[manifest.acceptance.path].sha256 != manifest.acceptance.sha256:
        raise _refused(path, "has acceptance examples whose SHA-256 is not the one in manifest.acceptance.sha256")
    if len(manifest.parity.inputs) != len(manifest.interface.inputs) or len(manifest.parity.outputs) != len(
        manifest.interface.outputs
    ):
        raise _refused(path, "has another number of parity tensors than its interface has inputs and outputs")
