# SPDX-License-Identifier: Apache-2.0
"""Where samples come from: a folder of pictures or clips with labels.csv, an ``.npz``, ``.npy`` or ``.csv``, or a
generator of the user's own.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from converter.adapters.samples.digest import sample_digest
from converter.adapters.samples.generators import is_generator_name, run_generator
from converter.adapters.samples.pictures import LABELS_FILE, SAMPLES_HINT, read_listing, read_picture
from converter.adapters.samples.recordings import WAV_SUFFIX, read_clip
from converter.adapters.samples.tables import read_table
from edgefleet.contracts.canonical import sha256_hex
from edgefleet.contracts.errors import FileMissingError, SampleError
from edgefleet.contracts.manifest import Preprocessing, TensorSpec
from edgefleet.runtimes.examples import input_arrays, read_npz
from edgefleet.runtimes.preprocessing import preprocess
from edgefleet.runtimes.tensors import to_model_inputs

Array = npt.NDArray[Any]
#: All arrays of an .npz are held in memory; a few packed bytes may stand for more than there is.
_NPZ_LIMIT_BYTES = 2 << 30


class SampleSet(Protocol):
    """Raw samples, before preprocessing, decoded when they are asked for."""

    @property
    def source(self) -> str:
        """What the user calls the set."""

    @property
    def labels(self) -> Array | None:
        """One label a sample, or None."""

    def __len__(self) -> int:
        """Return the number of samples."""

    def raw(self, number: int) -> list[Array]:
        """Return one sample, one array an input."""

    def digest(self, number: int) -> bytes:
        """Return the SHA-256 of one sample's content and label, whatever its path or place."""


class ArraySamples:
    """Samples in memory: one array an input, first axis samples."""

    def __init__(self, source: str, inputs: Sequence[Array], labels: Array | None) -> None:
        self.source = source
        self.inputs = tuple(inputs)
        self.labels = labels

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.inputs[0])

    def raw(self, number: int) -> list[Array]:
        """Return one sample, one array an input."""
        return [values[number] for values in self.inputs]

    def digest(self, number: int) -> bytes:
        """Return the SHA-256 of one sample's arrays and label."""
        return sample_digest(self.raw(number), self.labels, number)


class FileSamples(ABC):
    """Files of a folder, one a sample, read one at a time; a subclass says how."""

    def __init__(self, source: str, files: Sequence[Path], labels: Array | None) -> None:
        self.source = source
        self.files = tuple(files)
        self.labels = labels

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.files)

    @abstractmethod
    def raw(self, number: int) -> list[Array]:
        """Return one sample."""

    def digest(self, number: int) -> bytes:
        """Return the SHA-256 of the file and its label."""
        label = b"" if self.labels is None else _label_bytes(self.labels[number])
        return hashlib.sha256(hashlib.sha256(_read(self.files[number])).digest() + label).digest()


class PictureSamples(FileSamples):
    """Pictures of a folder, decoded to 8-bit RGB one at a time."""

    def raw(self, number: int) -> list[Array]:
        """Return one picture, (height, width, 3) uint8.

        Raises:
            SampleError: the file is no picture that Pillow reads.
        """
        return [read_picture(self.files[number], self.source)]


class ClipSamples(FileSamples):
    """Clips of a folder, 16-bit mono, read one at a time."""

    def raw(self, number: int) -> list[Array]:
        """Return one clip, (samples,) int16.

        Raises:
            SampleError: the file is no such clip.
        """
        return [read_clip(self.files[number], self.source).samples]

    def check_rate(self, number: int, how: Preprocessing) -> None:
        """Refuse a clip that was recorded at another rate than the preprocessing reckons with, or without any.

        Raises:
            SampleError: it was, or the preprocessing is not one of clips.
        """
        found = read_clip(self.files[number], self.source).rate_hz
        if how.audio is None:
            raise SampleError(
                f"{self.source} holds clips, and there is no preprocessing that says how they become inputs",
                hint="name a file with an [audio] table, with --preprocessing: kind, sample_rate_hz, clip_samples",
            )
        rate_hz = how.audio.sample_rate_hz
        if found != rate_hz:
            raise SampleError(
                f"{self.source}: '{self.files[number].name}' has {found} samples a second, "
                f"the preprocessing expects {rate_hz}",
                hint="resample the clips, or correct sample_rate_hz if the device records so",
            )


def open_samples(path: Path, input_names: Sequence[str], class_names: Sequence[str] = ()) -> SampleSet:
    """Open samples; ``input_names`` name the arrays of an ``.npz`` where a model has several inputs.

    A path of the form ``module:function`` that no file has runs that generator.

    Raises:
        FileMissingError: there is no such file or folder.
        InputError: the generator cannot be loaded, or fails.
        SampleError: it is none of the known kinds, or contradicts itself.
    """
    if path.is_dir():
        return _open_folder(path, class_names)
    if not path.exists():
        if is_generator_name(str(path)):
            return run_generator(str(path), input_names)
        raise FileMissingError(f"there are no samples at '{path}'", hint=SAMPLES_HINT)
    if path.suffix == ".npy":
        return ArraySamples(path.name, [_load_npy(path)], None)
    if path.suffix == ".npz":
        return _open_npz(path, input_names)
    if path.suffix == ".csv":
        table = read_table(path, class_names)
        return ArraySamples(path.name, [table.features], table.labels)
    raise SampleError(f"'{path.name}' is neither a folder nor an .npz, .npy or .csv file", hint=SAMPLES_HINT)


def canonical_order(samples: SampleSet) -> list[int]:
    """Return the positions of all samples in the order of their digests: the same for any order of the files."""
    return sorted(range(len(samples)), key=samples.digest)


def sample_set_sha256(samples: SampleSet) -> str:
    """Return the hash of a set of samples, independent of their order and paths."""
    return sha256_hex(b"".join(sorted(samples.digest(number) for number in range(len(samples)))))


def model_inputs(
    samples: SampleSet, order: Sequence[int], how: Preprocessing, specs: Sequence[TensorSpec]
) -> Iterator[list[Array]]:
    """Yield samples as the model takes them: preprocessed, quantized, with their batch dimension.

    Raises:
        SampleError: a sample does not fit; the message names the set.
    """
    for number in order:
        try:
            yield to_model_inputs(prepared(samples, number, how), specs)
        except SampleError as error:
            prefix = "" if error.message.startswith(samples.source) else f"{samples.source}: "
            raise SampleError(f"{prefix}{error.message}", hint=error.hint) from error


def prepared(samples: SampleSet, number: int, how: Preprocessing) -> list[Array]:
    """Return one sample after its preprocessing, one array an input.

    Raises:
        SampleError: it is not what the preprocessing starts from.
    """
    check_rate = getattr(samples, "check_rate", None)  # clips have it, and parts of sets of clips
    if check_rate is not None:
        check_rate(number, how)
    return [preprocess(value, how) for value in samples.raw(number)]


def class_numbers(samples: SampleSet) -> Array:
    """Return the labels of a set that must have them.

    Raises:
        SampleError: it has none.
    """
    if samples.labels is None:
        raise SampleError(f"{samples.source} has no labels", hint="add an array 'y', or a labels.csv (file,label)")
    return samples.labels


def _open_folder(folder: Path, class_names: Sequence[str]) -> SampleSet:
    files, labels = read_listing(folder, class_names)
    clips = [file.suffix.lower() == WAV_SUFFIX for file in files]
    if any(clips) and not all(clips):
        raise SampleError(
            f"'{folder.name}/{LABELS_FILE}' names pictures and clips", hint="keep one kind in each folder"
        )
    kind = ClipSamples if all(clips) else PictureSamples
    return kind(folder.name, files, labels)


def _open_npz(path: Path, input_names: Sequence[str]) -> ArraySamples:
    arrays = read_npz(path, source=path.name, limit_bytes=_NPZ_LIMIT_BYTES, hint=SAMPLES_HINT)
    names = input_arrays(arrays, input_names)
    missing = [name for name in names if name not in arrays]
    if missing:
        raise SampleError(f"{path.name} has no array '{missing[0]}', only {sorted(arrays)}", hint=SAMPLES_HINT)
    lengths = {name: len(arrays[name]) if arrays[name].ndim else 0 for name in (*names, *({"y"} & set(arrays)))}
    if len(set(lengths.values())) != 1 or 0 in lengths.values():
        raise SampleError(f"{path.name} has arrays of different or no length: {lengths}", hint=SAMPLES_HINT)
    return ArraySamples(path.name, [arrays[name] for name in names], None if "y" in names else arrays.get("y"))


def _load_npy(path: Path) -> Array:
    try:
        loaded: Array = np.load(path, allow_pickle=False)
        if loaded.ndim and len(loaded):
            return loaded
    except Exception as error:  # numpy raises several types for damaged files
        raise SampleError(f"{path.name} is not a readable .npy: {_first_line(error)}", hint=SAMPLES_HINT) from error
    raise SampleError(
        f"{path.name} holds no samples (shape {list(loaded.shape)})", hint="the first axis counts samples"
    )


def _label_bytes(label: Array) -> bytes:
    """Return a class number as text, or the boxes of a picture, without the rows that only fill up the array."""
    if label.ndim == 0:
        return str(int(label)).encode()
    return np.ascontiguousarray(label[label[:, -1] >= 0], dtype="<f8").tobytes()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SampleError(f"cannot read '{path.name}': {error.strerror or error}", hint="check the file") from error


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
