# SPDX-License-Identifier: Apache-2.0
"""What the rigs need of the program that they cut off."""

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol


class Subject(Protocol):
    """A program whose update is cut off. Its methods run in child processes, forked from the one that holds it.

    A *promise* is one line about what the world was told: a message sent, an update reported done. A rig keeps the
    promises that were made before the cut, and the oracle demands that each of them holds.
    """

    def prepare(self, folder: Path) -> None:
        """Fill an empty folder with the state of a device before its update."""

    def update(self, folder: Path, promises: Path) -> None:
        """Run one whole update from start to clean stop.

        Each promise is appended to the file ``promises`` as it is made, by one write.
        """

    def examine(self, folder: Path, promises: Sequence[bytes]) -> list[str]:
        """Start on what is left, and return a sentence for each thing that is wrong; the folder may be changed."""
