# SPDX-License-Identifier: Apache-2.0
"""Inputs of which a model was unsure, drawn in the worker and handed to the supervisor after the answer."""

from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic, time
from typing import Any, get_args

from device_agent.core.serving import CapturePlan, Unsure
from edgefleet.contracts.capture import CapturedInput, CapturedTensor
from edgefleet.contracts.manifest import Dtype
from edgefleet.contracts.messages import RunningRelease

#: Between two samples: what an application asks in bursts costs a copy a second at most.
_EVERY_S = 1.0
_WAITING = 4
_DTYPES = frozenset(get_args(Dtype))
_MOST_INPUTS, _MOST_AXES = 16, 8


class UnsureInputs:
    """The few inputs that wait to be handed over; ``below`` is 0 where nothing is captured."""

    def __init__(self, random: Callable[[], float]) -> None:
        self.below = 0.0
        self._random = random
        self._plan = CapturePlan()
        self._next_s = 0.0
        self._waiting: deque[Unsure] = deque(maxlen=_WAITING)

    def follow(self, plan: CapturePlan | None) -> None:
        """Capture as planned from now on."""
        self._plan = plan or CapturePlan()
        self.below = self._plan.confidence_below

    def offer(self, release: RunningRelease, raw: Sequence[Any], confidence: float) -> None:
        """Keep a copy of an input, if it is drawn, small enough, and not too soon after the last one."""
        now_s = monotonic()
        if now_s < self._next_s or self._random() >= self._plan.share:
            return
        if sum(array.nbytes for array in raw) > self._plan.limit_bytes or not _can_be_said(raw):
            return
        self._next_s = now_s + _EVERY_S
        inputs = tuple(
            CapturedTensor(shape=array.shape, dtype=str(array.dtype), data=array.tobytes())  # type: ignore[arg-type]
            for array in raw
        )
        captured = CapturedInput(
            v=1, release=release, confidence=min(max(confidence, 0.0), 1.0), captured_at=time(), inputs=inputs
        )
        self._waiting.append(Unsure(captured=captured))

    def take_reports(self) -> list[Unsure]:
        """Return what waits, once."""
        taken = []
        while self._waiting:
            taken.append(self._waiting.popleft())
        return taken


def _can_be_said(raw: Sequence[Any]) -> bool:
    """Tell whether the contract has words for an input: the supervisor could not read the worker's report else."""
    return len(raw) <= _MOST_INPUTS and all(str(array.dtype) in _DTYPES and array.ndim <= _MOST_AXES for array in raw)
