# SPDX-License-Identifier: Apache-2.0
"""Write files so that a crash leaves the old content or the new, and secrets so that only their owner reads them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgefleet.contracts.errors import ConflictError, StorageError


def write_file(path: Path, data: bytes, *, mode: int = 0o644, replace: bool = True) -> None:
    """Write a file durably (temporary file, fsync, rename, fsync of the folder).

    Raises:
        ConflictError: ``replace`` is false and the file exists.
        StorageError: the disk said no.
    """
    if not replace and path.exists():
        raise ConflictError(f"'{path}' exists already", hint="choose another name, or take the file away first")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, mode)
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
        temporary.rename(path)
        _sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):  # there may not even be a folder; the error that is under way says more
            temporary.unlink(missing_ok=True)
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"cannot write '{path}': {error.strerror or error}", hint="check free space and permissions")


def write_secret(path: Path, data: bytes, *, replace: bool = False) -> None:
    """Write a secret with mode 0600 into a folder of mode 0700; existing ones are kept unless ``replace``."""
    make_private_folder(path.parent)
    write_file(path, data, mode=0o600, replace=replace)


def make_private_folder(path: Path) -> None:
    """Make a folder that only its owner may enter, unless there is one.

    Raises:
        StorageError: the disk said no, or something else has this name.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise _unwritable(path, error) from error


@contextmanager
def all_or_nothing(*folders: Path) -> Iterator[None]:
    """Take back whatever was written below the folders, and made of them, if the block fails."""
    before = {path for folder in folders for path in _everything(folder)}
    try:
        yield
    except BaseException:  # whatever it was, a half would stand in the way of the next attempt
        for path in [path for folder in folders for path in _everything(folder) if path not in before]:
            with suppress(OSError):  # the error that is under way says more
                path.rmdir() if path.is_dir() else path.unlink()
        raise


def _everything(folder: Path) -> list[Path]:
    """Return what is below a folder, and the folder itself, the deepest first."""
    below = sorted(folder.rglob("*"), reverse=True) if folder.exists() else []
    return [*below, *([folder] if folder.exists() else [])]


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_absent(path: Path) -> None:
    """Refuse an output file that exists or has no place to be, before anything is done for it.

    Raises:
        ConflictError: it exists.
        StorageError: what is to be its folder is none, or may not be written to.
    """
    if path.exists():
        raise ConflictError(f"'{path}' exists already", hint="choose another name, or take the file away first")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        raise StorageError(
            f"cannot write '{path}': '{above}' is no folder that may be written to", hint="choose another place"
        )
