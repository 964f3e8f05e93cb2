# SPDX-License-Identifier: Apache-2.0
"""How parameters are drawn: scales over two decades, zero points often at the ends, inputs often saturated."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_EDGE_ZERO_POINTS = (-128, 127, 0)


class Draw:
    """One case's source of numbers."""

    def __init__(self, seed: int) -> None:
        self.random = np.random.default_rng(seed)

    def size(self, least: int, most: int) -> int:
        """Return a whole number between two, both included."""
        return int(self.random.integers(least, most + 1))

    def sizes(self, count: int, least: int, most: int) -> list[int]:
        """Return several of them."""
        return [self.size(least, most) for _ in range(count)]

    def chance(self, share: float = 0.5) -> bool:
        """Return whether something is to be."""
        return bool(self.random.random() < share)

    def one_of(self, choices: Sequence[Any]) -> Any:
        """Return one of several."""
        return choices[self.size(0, len(choices) - 1)]

    def real(self, least: float, most: float) -> float:
        """Return a float32 between two."""
        return float(np.float32(self.random.uniform(least, most)))

    def scale(self, least: float = 1e-3, most: float = 0.2) -> float:
        """Return a scale, evenly among the orders of magnitude."""
        return float(np.float32(np.exp(self.random.uniform(np.log(least), np.log(most)))))

    def scales_near_ties(self) -> tuple[float, float]:
        """Return two scales whose quotient sends some inputs to the edge between two answers."""
        large = self.size(1 << 23, (1 << 24) - 1)
        halves = (2 * self.size(0, 99) + 1) / (2 * self.size(1, 99))
        return float(np.float32(round(halves * large) * 2.0**-30)), float(np.float32(large * 2.0**-30))

    def scale_at_a_bound(self) -> float:
        """Return a scale in which the bound of an activation, 6 or 1, lies at the edge between two integers."""
        scale = np.float32(self.one_of((6.0, 1.0))) / np.float32(self.size(5, 250) + 0.5)
        return float(np.nextafter(scale, np.float32(self.one_of((0.0, 1.0, scale)))))

    def zero_point(self) -> int:
        """Return a zero point, one in two times at the ends or in the middle."""
        return int(self.one_of(_EDGE_ZERO_POINTS)) if self.chance() else self.size(-128, 127)

    def activation(self) -> int:
        """Return a fused activation that integers have."""
        return int(self.one_of((0, 0, 1, 2, 3)))

    def bytes(self, shape: Sequence[int]) -> Array:
        """Return int8 of a shape; one in four times all at the ends."""
        if self.chance(0.25):
            return self.random.choice(np.array([-128, 127], np.int8), tuple(shape))
        return self.random.integers(-128, 128, tuple(shape)).astype(np.int8)
