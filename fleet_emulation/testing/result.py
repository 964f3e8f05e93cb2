# SPDX-License-Identifier: Apache-2.0
"""What came out of a run on a board: outputs to compare with what was expected, and figures to hold against budgets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.errors import InputError
from fleet_emulation.testing.measured import FIGURES, Measured

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Layer:
    """What one layer of the model costs in an inference."""

    name: str
    instructions: int
    loads: int
    stores: int


@dataclass(frozen=True, eq=False)
class Result:
    """A run of a batch on a board.

    ``outputs`` is the model's output, its first axis the samples; a tuple of such arrays where it has several. Figures
    are those of the most expensive inference of the batch; sizes are the whole image's. ``text`` is what the program
    printed by semihosting.
    """

    label: str
    outputs: Array | tuple[Array, ...]
    measured: Measured
    layers: tuple[Layer, ...] = ()
    text: str = ""
    exit_code: int = 0

    @property
    def instructions(self) -> int:
        """Instructions of one inference."""
        return self._figure("instructions")

    @property
    def loads(self) -> int:
        """Words that one inference loads."""
        return self._figure("loads")

    @property
    def stores(self) -> int:
        """Words that one inference stores."""
        return self._figure("stores")

    @property
    def init_instructions(self) -> int:
        """Instructions that get the model ready, once."""
        return self._figure("init_instructions")

    @property
    def stack_bytes(self) -> int:
        """The deepest stack that was seen, from reset on."""
        return self._figure("stack_bytes")

    @property
    def stack_bound_bytes(self) -> int:
        """What the stack can never exceed, by the calls in the image."""
        return self._figure("stack_bound_bytes")

    @property
    def flash_bytes(self) -> int:
        """What the image takes of flash."""
        return self._figure("flash_bytes")

    @property
    def ram_bytes(self) -> int:
        """What the image takes of RAM beside the stack."""
        return self._figure("ram_bytes")

    def _figure(self, name: str) -> int:
        if name not in self.measured.figures:
            raise InputError(f"{name} of {self.label} was not measured", hint="see Result.measured.figures")
        return self.measured.figures[name]

    def assert_equal(self, expected: Array | Sequence[Array]) -> None:
        """Fail unless the outputs are the expected ones, bit for bit; the message names the first that differs."""
        got = self.outputs if isinstance(self.outputs, tuple) else (self.outputs,)
        wanted = tuple(expected) if isinstance(self.outputs, tuple) else (np.asarray(expected),)
        if len(got) != len(wanted):
            raise AssertionError(f"{self.label} has {len(got)} outputs, and {len(wanted)} were expected")
        for number, (one, other) in enumerate(zip(got, wanted, strict=True)):
            difference = first_difference(one, np.asarray(other))
            if difference:
                which = f"output {number} of " if len(got) > 1 else "the output of "
                raise AssertionError(f"{which}{self.label} {difference}")

    def check(self, **budgets: int) -> None:
        """Fail if a figure is over its budget: ``check(instructions=3_000_000, ram_bytes=18_000)``."""
        for name in budgets:
            if name not in FIGURES:
                raise InputError(f"there is no figure '{name}'", hint=f"the figures are: {', '.join(FIGURES)}")
        broken = [
            f"{name} {self._figure(name):,} is over the budget of {limit:,} by {self._figure(name) - limit:,}"
            for name, limit in budgets.items()
            if self._figure(name) > limit
        ]
        if broken:
            raise AssertionError(f"{self.label}: {', '.join(broken)}")


def first_difference(got: Array, wanted: Array) -> str:
    """Say how an array differs from the one that was expected: in kind, or in its elements; empty where it does not."""
    if got.shape != wanted.shape or got.dtype != wanted.dtype:
        return f"is {got.dtype} of shape {got.shape}, and {wanted.dtype} of shape {wanted.shape} was expected"
    differs = got.view(f"V{got.itemsize}") != wanted.view(f"V{wanted.itemsize}") if got.ndim else got != wanted
    places = np.argwhere(differs)
    if len(places) == 0:
        return ""
    first = tuple(int(index) for index in places[0])
    return (
        f"differs in {len(places):,} of {got.size:,} elements, first at {list(first)}: "
        f"got {got[first]}, expected {wanted[first]}"
    )
