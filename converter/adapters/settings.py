# SPDX-License-Identifier: Apache-2.0
"""Small files that a user names on the command line: preprocessing, recipe, class names, arrays."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from converter.core.recipe import Recipe, read_recipe
from edgefleet.contracts.decoding import decode_toml
from edgefleet.contracts.errors import FileMissingError, InputError, SampleError, SettingError
from edgefleet.contracts.manifest import Preprocessing
from edgefleet.runtimes.examples import read_npz
from edgefleet.runtimes.preprocessing import check_parts

Array = npt.NDArray[Any]
_LIMIT_BYTES = 1 << 30


def read_preprocessing(path: Path | None) -> Preprocessing:
    """Read a preprocessing file; none given means: inputs come in model units.

    Raises:
        FileMissingError: there is no such file.
        SettingError: it breaks the schema, says two things, or contradicts itself.
    """
    if path is None:
        return Preprocessing()
    how = decode_toml(_read(path, "preprocessing"), Preprocessing, source=path.name)
    try:
        check_parts(how)
    except SampleError as error:
        raise SettingError(f"{path.name}: {error.message}", hint=error.hint) from error
    return how


def read_recipe_file(path: Path | None) -> Recipe | None:
    """Read a recipe; none given means: what the board prefers.

    Raises:
        FileMissingError: there is no such file.
        SettingError: it breaks the schema.
    """
    return None if path is None else read_recipe(_read(path, "recipe"), source=path.name)


def read_labels(path: Path | None) -> tuple[str, ...]:
    """Read class names, one a line; empty lines are left out.

    Raises:
        FileMissingError: there is no such file.
        InputError: it is not UTF-8, or a name comes twice.
    """
    if path is None:
        return ()
    try:
        lines = _read(path, "class names").decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"'{path.name}' is not UTF-8 text", hint="save the class names as UTF-8") from error
    names = tuple(line.strip() for line in lines if line.strip())
    if len(set(names)) != len(names):
        raise InputError(f"'{path.name}' names a class twice", hint="give each class a name of its own")
    return names


def read_batch(path: Path) -> Array:
    """Read an ``.npy`` file whose first axis counts samples.

    Raises:
        FileMissingError: there is no such file.
        SampleError: it is no .npy file, or holds nothing.
    """
    data = io.BytesIO(_read(path, "batch"))
    try:
        batch: Array = np.lib.format.read_array(data, allow_pickle=False)  # not np.load: that takes zip files as well
    except Exception as error:  # numpy raises several types for damaged files
        raise SampleError(f"'{path.name}' is not a readable .npy file", hint="write it with numpy.save") from error
    if batch.ndim == 0 or not len(batch):
        raise SampleError(f"'{path.name}' holds no samples", hint="store a batch whose first axis counts samples")
    return batch


def read_batches(path: Path, input_names: Sequence[str]) -> list[Array]:
    """Read samples for a model: an ``.npy`` for one input, an ``.npz`` with an array named like each for several.

    Raises:
        FileMissingError: there is no such file.
        SampleError: it is no such file, lacks an array, or holds nothing.
    """
    if len(input_names) == 1:
        return [read_batch(path)]
    hint = "the model has several inputs: store an array named like each with numpy.savez, first axis samples"
    stored = io.BytesIO(_read(path, "batch"))
    arrays = read_npz(stored, source=f"'{path.name}'", limit_bytes=_LIMIT_BYTES, hint=hint)
    for name in input_names:
        if name not in arrays:
            raise SampleError(f"'{path.name}' has no array '{name}', only {sorted(arrays)}", hint=hint)
        if arrays[name].ndim == 0 or not len(arrays[name]):
            raise SampleError(f"'{path.name}' holds no samples of '{name}'", hint=hint)
    return [arrays[name] for name in input_names]


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as stream:
            data = stream.read(_LIMIT_BYTES + 1)  # a device file has no size and no end
    except OSError as error:
        raise FileMissingError(
            f"cannot read the {what} '{path}': {error.strerror or error}", hint="check the path and its permissions"
        ) from error
    if len(data) > _LIMIT_BYTES:
        raise InputError(
            f"the {what} '{path.name}' has more than {_LIMIT_BYTES} bytes", hint="check that it is this file"
        )
    return data
