# SPDX-License-Identifier: Apache-2.0
"""A folder of files: its labels.csv (a label for each file, or boxes), and pictures as 8-bit RGB."""

import csv
import math
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.errors import SampleError

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

Array = npt.NDArray[Any]
LABELS_FILE = "labels.csv"
SAMPLES_HINT = (
    "give a folder of pictures or .wav files with labels.csv (file,label), an .npz with 'x' (and 'y'), "
    "an .npy, a .csv, or module:function"
)
_BOX_HEADER = ["y0", "x0", "y1", "x1", "class"]
_WHOLE_NUMBER = re.compile(r"-?[0-9]{1,18}")


def read_picture(path: Path, source: str) -> Array:
    """Return a picture as it was stored, (height, width, 3) uint8; a turn that EXIF asks for is not made.

    Raises:
        SampleError: the file is no picture that Pillow reads, has too many pixels, or pixels without a range.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                _check_pixels(picture)
                return _as_rgb(picture)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise SampleError(
            f"{source}: '{path.name}' has more pixels than a picture may have ({Image.MAX_IMAGE_PIXELS})",
            hint="make the picture smaller",
        ) from error
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError) as error:
        raise SampleError(
            f"{source}: '{path.name}' is not a readable picture", hint="replace the file or take it out of labels.csv"
        ) from error


def read_listing(folder: Path, class_names: Sequence[str]) -> tuple[list[Path], Array]:
    """Return the files that a folder's labels.csv names, and their labels.

    Below the header ``file,label`` these are class numbers, int64 (files,). Below ``file,y0,x0,y1,x1,class`` they are
    boxes, float64 (files, most boxes of a file, 5): a line is a box, a file may have several or one with empty cells,
    and rows that are no box have the class -1.

    Raises:
        SampleError: there is no such listing, or it contradicts itself or the folder.
    """
    source = f"{folder.name}/{LABELS_FILE}"
    header, *rows = _read_rows(folder, source)
    if [cell.strip().lower() for cell in header[1:]] == _BOX_HEADER:
        return _read_boxes(folder, rows, class_names, source)
    files = [_inside(folder, row[0], source) for row in rows]
    labels = [_class_number(row[1].strip(), class_names, source) for row in rows]
    _check_unique([row[0] for row in rows], source)
    return files, np.array(labels, dtype=np.int64)


def _check_pixels(picture: "Picture") -> None:
    """Refuse what Pillow only warns of, as another thread may have changed what warnings do."""
    from PIL import Image

    if picture.width * picture.height > (Image.MAX_IMAGE_PIXELS or math.inf):
        raise Image.DecompressionBombError


def _as_rgb(picture: "Picture") -> Array:
    if picture.mode.startswith("I;16"):  # Pillow would clip it to white; this is what it makes of 16-bit colours
        grey = (np.asarray(picture, dtype=np.uint16) >> 8).astype(np.uint8)
        return np.repeat(grey[:, :, np.newaxis], 3, axis=2)
    if picture.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {picture.mode} have no range")
    return np.asarray(picture.convert("RGB"))


def _read_rows(folder: Path, source: str) -> list[list[str]]:
    """Return the header and the rows below it, each of two columns at least."""
    listing = folder / LABELS_FILE
    try:
        if not listing.is_file():
            raise FileNotFoundError(listing)
        with listing.open(newline="", encoding="utf-8-sig") as stream:
            rows = [row for row in csv.reader(stream) if any(cell.strip() for cell in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise SampleError(f"the folder '{folder.name}' has no readable {LABELS_FILE}", hint=SAMPLES_HINT) from error
    if len(rows) < 2 or any(len(row) < 2 for row in rows):
        raise SampleError(f"'{source}' needs a header and rows of two columns", hint="write: file,label")
    if _is_inside(folder, rows[0][0]):
        raise SampleError(
            f"'{source}' begins with '{rows[0][0]}', a picture, where its header is expected",
            hint="write as its first line: file,label",
        )
    return rows


def _read_boxes(
    folder: Path, rows: Sequence[Sequence[str]], class_names: Sequence[str], source: str
) -> tuple[list[Path], Array]:
    boxes: dict[Path, list[list[float]]] = {}
    for row in rows:
        own = boxes.setdefault(_inside(folder, row[0], source), [])
        if any(cell.strip() for cell in row[1:]):
            own.append(_box(row, class_names, source))
    labels = np.zeros((len(boxes), max(1, *map(len, boxes.values())), 1 + len(_BOX_HEADER[:-1])))
    labels[:, :, -1] = -1.0
    for place, own in enumerate(boxes.values()):
        if own:
            labels[place, : len(own)] = own
    return list(boxes), labels


def _box(row: Sequence[str], class_names: Sequence[str], source: str) -> list[float]:
    try:
        ends = [float(cell) for cell in row[1:5]]
        if len(row) == 1 + len(_BOX_HEADER) and all(map(math.isfinite, ends)):
            return [*ends, float(_class_number(row[5].strip(), class_names, source))]
    except ValueError:
        pass
    raise SampleError(
        f"'{source}' has a line for '{row[0]}' that is no box",
        hint="write: file,y0,x0,y1,x1,class, or nothing but commas after a file without boxes",
    )


def _inside(folder: Path, name: str, source: str) -> Path:
    if not _is_inside(folder, name):
        said = name if len(name) <= 100 else f"{name[:100]}…"
        raise SampleError(f"'{source}' names '{said}', which is no file of the folder", hint="correct the row")
    return folder / name


def _is_inside(folder: Path, name: str) -> bool:
    path = folder / name
    try:
        return path.is_file() and path.resolve().is_relative_to(folder.resolve())
    except (OSError, ValueError):  # a name that is too long, or has a NUL in it
        return False


def _class_number(text: str, class_names: Sequence[str], source: str) -> int:
    if text in class_names:
        return list(class_names).index(text)
    if not _WHOLE_NUMBER.fullmatch(text):
        raise SampleError(
            f"'{source}' has the label '{text}', which is neither a number nor a known class",
            hint="use class numbers, or name the classes in order with --labels FILE",
        )
    return int(text)


def _check_unique(names: Sequence[str], source: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise SampleError(f"'{source}' names '{name}' twice", hint="name each picture once, with one label")
        seen.add(name)
