# SPDX-License-Identifier: Apache-2.0
"""What a device's camera sees: real digits the training never saw, now and then a blank frame, and late labels."""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


class Frame(NamedTuple):
    """One input and its true class, or None for a blank frame (nothing was in front of the camera)."""

    pixels: Array
    label: int | None


class LiveStream:
    """An endless stream of frames in an order that depends on the seed only.

    ``blank_share`` of the frames are blank; with ``blank_within`` one of so many in a row is, whatever chance says.
    ``label_share`` of the others have a person who looks at them later.
    """

    def __init__(
        self,
        digits: Path,
        *,
        seed: int,
        blank_share: float = 0.01,
        blank_within: int | None = None,
        label_share: float = 0.5,
    ) -> None:
        with np.load(digits, allow_pickle=False) as stored:
            self._x, self._y = stored["live_x"], stored["live_y"]
        self._random = random.Random(seed)
        self._blank_share = blank_share
        self._blank_within = blank_within
        self._since_blank = 1
        self._label_share = label_share

    def __iter__(self) -> Iterator[Frame]:
        """Yield frames without end, shuffled anew in each pass."""
        while True:
            order = list(range(len(self._x)))
            self._random.shuffle(order)
            for number in order:
                while self._is_blank():
                    yield Frame(np.zeros_like(self._x[0]), None)
                yield Frame(self._x[number], int(self._y[number]))

    def _is_blank(self) -> bool:
        blank = self._random.random() < self._blank_share or self._since_blank == self._blank_within
        self._since_blank = 1 if blank else self._since_blank + 1
        return blank

    def is_labelled(self, frame: Frame) -> bool:
        """Decide whether somebody will say what this frame shows."""
        return frame.label is not None and self._random.random() < self._label_share
