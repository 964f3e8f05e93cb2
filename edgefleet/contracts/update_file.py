# SPDX-License-Identifier: Apache-2.0
"""The update file: what a device would ask the server for, as one file that a person carries to it.

One uncompressed ustar file. Its members, in this order:

``update.json``              an :class:`UpdateDescription`
``director/DEVICE/FILE``     a device's director metadata, and the director's roots
``image/FILE``               the image repository's metadata and roots
``targets/SHA256``           bundles and other targets, by hash

Nothing in it is believed because it is in it: the device verifies it as if it came from the server. The reader keeps
these rules before it writes anything: each header is byte for byte the one that the writer makes for that path and
size (so there are no links, folders or extensions), paths are of the kinds above and none comes twice, each member
and their number are within limits, two zero blocks end the file and nothing follows.
"""

import os
import re
import stat
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

import msgspec

from edgefleet.contracts.bundle import BLOCK_BYTES, BUNDLE_LIMIT_BYTES
from edgefleet.contracts.errors import FileMissingError, RefusedError
from edgefleet.contracts.manifest import Fact
from edgefleet.contracts.names import Name

DESCRIPTION_PATH = "update.json"
DESCRIPTION_LIMIT_BYTES = 64 << 10
METADATA_LIMIT_BYTES = 8 << 20
MEMBERS_LIMIT = 4096
_PIECE_BYTES = 1 << 20
_PATH = re.compile(
    r"^(update\.json|director/[a-z0-9][a-z0-9_-]{0,62}/[a-z0-9][a-z0-9._-]*\.json|image/[a-z0-9][a-z0-9._-]*\.json|"
    r"targets/[0-9a-f]{64})\Z"
)
_HINT = "export it again: edgefleet releases export --device NAME --output FILE"


class UpdateDescription(Fact, frozen=True, kw_only=True):
    """For whom the file was made; ``made_at`` in Unix seconds."""

    format_version: Literal[1]
    tenant: Name
    devices: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    made_at: int


@dataclass(frozen=True)
class UpdateMember:
    """One member and where its bytes lie."""

    path: str
    offset: int
    size_bytes: int


class UpdateFile:
    """An update file whose form was checked; its members are read when they are asked for."""

    def __init__(self, path: Path, members: dict[str, UpdateMember], description: UpdateDescription) -> None:
        self.path = path
        self.members = members
        self.description = description

    def pieces(self, member: UpdateMember) -> Iterator[bytes]:
        """Yield a member's bytes.

        Raises:
            RefusedError: the file became shorter meanwhile.
        """
        with _opened(self.path) as stream:
            stream.seek(member.offset)
            left = member.size_bytes
            while left:
                piece = stream.read(min(left, _PIECE_BYTES))
                if not piece:
                    raise _refused(self.path, "became shorter while it was read")
                left -= len(piece)
                yield piece


def write_update(stream: BinaryIO, members: Iterable[tuple[str, int, Iterable[bytes]]]) -> None:
    """Write path, size and bytes of each member.

    Raises:
        OSError: the stream cannot be written.
    """
    for path, size_bytes, pieces in members:
        stream.write(_header(path, size_bytes))
        written = 0
        for piece in pieces:
            stream.write(piece)
            written += len(piece)
        stream.write(bytes(-written % BLOCK_BYTES))
    stream.write(bytes(2 * BLOCK_BYTES))


def open_update(path: Path) -> UpdateFile:
    """Check an update file's form, and return what it holds.

    Raises:
        FileMissingError: there is no such file, or it cannot be read.
        RefusedError: it breaks a rule of the form.
    """
    with _opened(path) as stream:
        members = {}
        for member in _members(stream, path):
            if member.path in members:
                raise _refused(path, f"has the member '{member.path}' twice")
            members[member.path] = member
        first = next(iter(members.values()), None)
        if first is None or first.path != DESCRIPTION_PATH:
            raise _refused(path, f"is no update file: it does not start with '{DESCRIPTION_PATH}'")
        stream.seek(first.offset)
        data = stream.read(first.size_bytes)
    try:
        return UpdateFile(path, members, msgspec.json.decode(data, type=UpdateDescription))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise _refused(path, f"has a malformed '{DESCRIPTION_PATH}': {error}") from error


def _members(stream: BinaryIO, path: Path) -> Iterator[UpdateMember]:
    size_bytes = os.fstat(stream.fileno()).st_size
    for count in range(MEMBERS_LIMIT + 1):
        header = stream.read(BLOCK_BYTES)
        if header == bytes(BLOCK_BYTES):
            break
        if len(header) < BLOCK_BYTES or header[257:262] != b"ustar":
            what = "is truncated or damaged: a header is missing" if count else "is no update file: it is no ustar file"
            raise _refused(path, what)
        member = _parse(header, path, stream.tell())
        if member.offset + member.size_bytes > size_bytes:
            raise _refused(path, f"is truncated: the member '{member.path}' ends behind the end of the file")
        yield member
        stream.seek(member.offset + member.size_bytes + -member.size_bytes % BLOCK_BYTES)
    else:
        raise _refused(path, f"has more than {MEMBERS_LIMIT} members")
    if stream.read(BLOCK_BYTES) != bytes(BLOCK_BYTES) or stream.read(1):
        raise _refused(path, "does not end in two zero blocks")


def _parse(header: bytes, path: Path, offset: int) -> UpdateMember:
    name = header[:100].rstrip(b"\0").decode("ascii", "replace")
    if not _PATH.fullmatch(name):
        raise _refused(path, f"has a member with the path '{name[:100]}', which no update file has")
    try:
        size_bytes = int(header[124:135], 8)
    except ValueError:
        raise _refused(path, f"has no readable size for the member '{name}'") from None
    if header != _header(name, size_bytes):
        raise _refused(path, f"has attributes for the member '{name}' that an update file may not have")
    limit = _limit(name)
    if size_bytes > limit:
        raise _refused(path, f"has a member '{name}' of {size_bytes} bytes, over the limit of {limit}")
    return UpdateMember(name, offset, size_bytes)


def _limit(name: str) -> int:
    if name == DESCRIPTION_PATH:
        return DESCRIPTION_LIMIT_BYTES
    return BUNDLE_LIMIT_BYTES if name.startswith("targets/") else METADATA_LIMIT_BYTES


def _header(path: str, size_bytes: int) -> bytes:
    info = tarfile.TarInfo(path)
    info.size = size_bytes
    info.mode = 0o644
    return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")


def _opened(path: Path) -> BinaryIO:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe must not be waited for
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise FileMissingError(f"'{path}' is no file", hint="name the update file itself")
        return os.fdopen(descriptor, "rb")
    except OSError as error:
        raise FileMissingError(
            f"cannot read the update file '{path}': {error.strerror or error}", hint="check the path, and the stick"
        ) from error


def _refused(path: Path, what: str) -> RefusedError:
    return RefusedError(f"'{path.name}' {what}", hint=_HINT)
