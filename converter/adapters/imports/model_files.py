# SPDX-License-Identifier: Apache-2.0
"""Read the model that a user names: checked for what a wrong file looks like before anything parses it."""

import hashlib
from pathlib import Path
from typing import NamedTuple

from converter.adapters.imports.keras_model import KERAS_SUFFIXES, SAVED_MODEL_FILE, keras_to_tflite
from converter.adapters.imports.torch_module import names_a_function, torch_to_tflite
from edgefleet.contracts.canonical import sha256_file, sha256_hex
from edgefleet.contracts.errors import FileMissingError, UnsupportedModelError

MODEL_LIMIT_BYTES = 256 << 20
_IDENTIFIER = slice(4, 8)
_TFLITE = b"TFL3"
_HINT = "give a .tflite file, or a Keras file (.keras, .h5) with the extra 'tensorflow'"
_QUANTIZED_HINT = "give a bundle, or a .tflite file that is quantized to int8"
_FOLDER_HINT = "give a .tflite file, or the folder of a SavedModel with the extra 'tensorflow'"


class SourceModel(NamedTuple):
    """A TFLite model, and the hash of what it came from.

    That is the file's own hash, or a SavedModel's over its files' names and hashes. A PyTorch model has no file: its
    hash is that of the float TFLite model that was made from it.
    """

    data: bytes
    sha256: str


def read_source(path: Path) -> SourceModel:
    """Read a ``.tflite`` file, or turn a Keras file, a SavedModel folder or a PyTorch ``module:function`` into one.

    Raises:
        FileMissingError: there is no such file, or it cannot be read.
        UnsupportedModelError: it is empty, too large, cut off, or no model.
        MissingExtraError: it needs TensorFlow or PyTorch, which is not installed.
    """
    if names_a_function(str(path)) and not path.exists():
        made = torch_to_tflite(str(path))
        return SourceModel(made, sha256_hex(made))
    if path.is_dir():
        digest = _folder_sha256(path)
        return SourceModel(keras_to_tflite(path), digest)
    original = _read(path)
    if path.suffix.lower() in KERAS_SUFFIXES:
        return SourceModel(keras_to_tflite(path), sha256_hex(original))
    return SourceModel(_tflite(path, original, _HINT), sha256_hex(original))


def read_quantized(path: Path) -> bytes:
    """Read a ``.tflite`` file that is to be taken as it is.

    Raises:
        FileMissingError: there is no such file, or it cannot be read.
        UnsupportedModelError: it is empty, too large, or no TFLite model.
    """
    return _tflite(path, _read(path, hint=_QUANTIZED_HINT), _QUANTIZED_HINT)


def read_any(path: Path, *, hint: str) -> bytes:
    """Read a file of a kind that the caller looks at; ``hint`` says which, should it be empty.

    Raises:
        FileMissingError: there is no such file, or it cannot be read.
        UnsupportedModelError: it is empty or too large.
    """
    return _read(path, hint)


def _tflite(path: Path, data: bytes, hint: str) -> bytes:
    if data[_IDENTIFIER] != _TFLITE:
        raise UnsupportedModelError(f"'{path.name}' is not a TFLite model: it lacks the mark 'TFL3'", hint=hint)
    return data


def source_sha256(path: Path) -> str:
    """Return the hash that :func:`read_source` would say, without converting anything but a PyTorch model.

    Raises:
        FileMissingError, UnsupportedModelError, MissingExtraError: as :func:`read_source`.
    """
    if names_a_function(str(path)) and not path.exists():
        return read_source(path).sha256
    return _folder_sha256(path) if path.is_dir() else sha256_hex(_read(path))


def _folder_sha256(folder: Path) -> str:
    """Return one hash over the files of a SavedModel: their paths inside the folder, and their contents."""
    if not (folder / SAVED_MODEL_FILE).is_file():
        raise UnsupportedModelError(
            f"'{folder.name}' is a folder without '{SAVED_MODEL_FILE}', so no SavedModel", hint=_FOLDER_HINT
        )
    digest = hashlib.sha256()
    try:
        for path in sorted(each for each in folder.rglob("*") if each.is_file()):
            digest.update(f"{path.relative_to(folder).as_posix()}\0{sha256_file(path)}\n".encode())
    except OSError as error:
        raise _unreadable(folder, error) from error
    return digest.hexdigest()


def _read(path: Path, hint: str = _HINT) -> bytes:
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MODEL_LIMIT_BYTES:
            raise UnsupportedModelError(
                f"'{path.name}' is {size_bytes} bytes, over the limit of {MODEL_LIMIT_BYTES}",
                hint="models for edge devices are smaller: check that this is the model",
            )
        with path.open("rb") as stream:
            data = stream.read(MODEL_LIMIT_BYTES)  # a device file has no size and no end
    except OSError as error:
        raise _unreadable(path, error) from error
    if not data:
        raise UnsupportedModelError(f"'{path.name}' is empty, not a model", hint=hint)
    return data


def _unreadable(path: Path, error: OSError) -> FileMissingError:
    return FileMissingError(
        f"cannot read the model '{path}': {error.strerror or error}", hint="check the path and its permissions"
    )
