# SPDX-License-Identifier: Apache-2.0
"""Second copies of the few files that come once, by enrolment or renewal, and that a device cannot do without.

``NAME.copy`` holds the SHA-256 of the bytes and the bytes. It is written before the file: after a power cut between
the two, and after a disk changed either, :func:`mend` makes them the same again. Both have one time of modification,
which a failing disk does not change: what is later than its copy was put there by somebody. It stays if it is what the
file is for.
"""

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

from device_agent.adapters.storage.durable import write_durably
from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.files import read_regular

_PRIVATE, _PUBLIC = 0o600, 0o644
_SEAL_BYTES = 65


def copy_of(path: Path) -> Path:
    """Return where the copy of a file lies."""
    return path.with_name(f"{path.name}.copy")


def write_twice(path: Path, data: bytes) -> None:
    """Write a file and its copy durably; only the owner may read one with a private key.

    Raises:
        OSError: it cannot be written.
    """
    mode = _mode(data)
    write_durably(copy_of(path), sha256_hex(data).encode() + b"\n" + data, mode=mode)
    _write_again(path, data)


def mend(path: Path, is_usable: Callable[[bytes], bool]) -> bool:
    """Make a file and its copy the same; tell whether the file had to be written again.

    ``is_usable`` tells whether bytes can be what the file is for.

    Raises:
        OSError: it cannot be written.
    """
    own, kept = _read(path), _unsealed(_read(copy_of(path)))
    if own == kept:
        if own is not None:
            _date(path)
        return False
    if own is not None and (kept is None or (_is_later(path) and is_usable(own))):
        write_twice(path, own)
        return False
    assert kept is not None  # noqa: S101  else both are the same
    _write_again(path, kept)
    return True


def _write_again(path: Path, data: bytes) -> None:
    write_durably(path, data, mode=_mode(data))
    _date(path)


def _date(path: Path) -> None:
    """Give a file its copy's time; should a power cut or a read-only disk prevent it, the next start tries again."""
    own, kept = path.stat(), copy_of(path).stat()
    if own.st_mtime_ns != kept.st_mtime_ns:
        with contextlib.suppress(OSError):
            os.utime(path, ns=(own.st_atime_ns, kept.st_mtime_ns))


def _is_later(path: Path) -> bool:
    """Tell whether somebody wrote a file after its copy was made."""
    return path.stat().st_mtime_ns > copy_of(path).stat().st_mtime_ns


def _unsealed(sealed: bytes | None) -> bytes | None:
    if sealed is None or sealed[_SEAL_BYTES - 1 : _SEAL_BYTES] != b"\n":
        return None
    data = sealed[_SEAL_BYTES:]
    return data if sha256_hex(data).encode() == sealed[: _SEAL_BYTES - 1] else None


def _read(path: Path) -> bytes | None:
    return read_regular(path) if path.is_file() else None  # whatever else is there


def _mode(data: bytes) -> int:
    return _PRIVATE if b"PRIVATE KEY" in data else _PUBLIC
