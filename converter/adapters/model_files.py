# SPDX-License-Identifier: Apache-2.0
"""Read the model that a user names: checked for what a wrong file looks like before anything parses it."""

from pathlib import Path
from typing import NamedTuple

from converter.adapters.keras_import import KERAS_SUFFIXES, keras_to_tflite
from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.errors import FileMissingError, UnsupportedModelError

MODEL_LIMIT_BYTES = 256 << 20
_IDENTIFIER = slice(4, 8)
_TFLITE = b"TFL3"
_HINT = "give a .tflite file, or a Keras file (.keras, .h5) with the extra 'tensorflow'"


class SourceModel(NamedTuple):
    """A TFLite model, and the hash of the file that it came from (the Keras file, where it was one)."""

    data: bytes
    sha256: str


def read_source(path: Path) -> SourceModel:
    """Read a ``.tflite`` file, or turn a Keras file into one.

    Raises:
        FileMissingError: there is no such file, or it cannot be read.
        UnsupportedModelError: it is empty, too large, cut off, or no model.
        MissingExtraError: it is a Keras file, and TensorFlow is not installed.
    """
    original = _read(path)
    digest = sha256_hex(original)
    if path.suffix.lower() in KERAS_SUFFIXES:
        return SourceModel(keras_to_tflite(path), digest)
    if original[_IDENTIFIER] != _TFLITE:
        raise UnsupportedModelError(f"'{path.name}' is not a TFLite model: it lacks the mark 'TFL3'", hint=_HINT)
    return SourceModel(original, digest)


def _read(path: Path) -> bytes:
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
        raise FileMissingError(
            f"cannot read the model '{path}': {error.strerror or error}", hint="check the path and its permissions"
        ) from error
    if not data:
        raise UnsupportedModelError(f"'{path.name}' is empty, not a model", hint=_HINT)
    return data
