# SPDX-License-Identifier: Apache-2.0
"""What every runtime looks like from outside."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy.typing as npt

from edgefleet.contracts.manifest import TensorSpec

Array = npt.NDArray[Any]


class Interpreter(Protocol):
    """One loaded model, on whatever runtime; not for use from two threads at once."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it takes."""

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it answers with."""

    def invoke(self, inputs: Sequence[Array]) -> list[Array]:
        """Run one inference; arrays have the shapes and dtypes of ``self.inputs`` and come back as ``self.outputs``.

        Raises:
            ModelFailedError: an input does not fit, or the interpreter failed.
        """

    def reset_state(self) -> None:
        """Set the model's state variables back to their start."""
