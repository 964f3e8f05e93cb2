# SPDX-License-Identifier: Apache-2.0
"""A board that stays on and answers over its serial port, as one in a product does."""

from dataclasses import dataclass

import numpy as np

from converter.c.core.program import Value
from edgefleet.boards.images import Image
from edgefleet.contracts.errors import UnreachableError
from edgefleet.contracts.profile import Profile
from fleet_emulation.testing.frames import (
    HASH_BYTES,
    HEAD_BYTES,
    REQUEST,
    answer_of,
    frame,
    payload_of,
    sizes_of,
    sort_of,
)
from fleet_emulation.testing.live_board import LiveBoard
from fleet_emulation.testing.reference import check_batch
from fleet_emulation.testing.result import Array

_UP_S = 60.0
_ANSWER_S = 60.0


@dataclass(frozen=True)
class Firmware:
    """An image that answers, and what its model takes and gives."""

    image: Image
    input: Value
    output: Value


class AnsweringBoard(LiveBoard):
    """A board with the firmware of firmware/boards/answering.c."""

    def __init__(self, profile: Profile, firmware: Firmware, *, number: int = 0) -> None:
        super().__init__(profile, firmware.image, number=number)
        self._firmware = firmware
        self._up = False

    def start(self) -> None:
        """Switch it on; :meth:`infer` waits until it is ready."""
        self._up = False
        super().start()

    def wait_until_up(self, *, limit_s: float = _UP_S) -> None:
        """Wait until it has said, since it was switched on, that it is ready.

        Raises:
            UnreachableError: it does not in time, it ended, or says something else.
        """
        if self._up:
            return
        said = sizes_of(*self._next_frame(limit_s), self.name)
        specs = (self._firmware.input, self._firmware.output)
        ours = [int(np.prod(spec.shape)) * np.dtype(spec.dtype).itemsize for spec in specs]
        if ours != list(said):
            raise UnreachableError(
                f"{self.name} takes and gives {list(said)}, not {ours}", hint="it runs other firmware"
            )
        self._up = True

    def infer(self, sample: Array) -> Array:
        """Return the model's raw output to one sample; neither has the first axis.

        Raises:
            InputError: the sample is not of the model's input.
            UnreachableError: the board is off, or does not answer in time.
            ModelFailedError: it says that it could not answer.
        """
        own, output = self._firmware.input, self._firmware.output
        check_batch(sample[None], own.dtype, own.shape)
        self.wait_until_up()
        self.uart.write(frame(REQUEST, np.ascontiguousarray(sample).tobytes()))
        answer = answer_of(*self._next_frame(_ANSWER_S), self.name)
        return np.frombuffer(answer, output.dtype).reshape(output.shape[1:])

    def _next_frame(self, limit_s: float) -> tuple[bytes, bytes]:
        sort = sort_of(self.uart.read(HEAD_BYTES, timeout_s=limit_s), self.name)
        body = self.uart.read(sort.payload_bytes + HASH_BYTES, timeout_s=limit_s)
        return sort.kind, payload_of(body, self.name)
