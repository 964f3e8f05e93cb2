# SPDX-License-Identifier: Apache-2.0
"""Whose answer a label is for that comes when the answer is not remembered any more: what applications say of it.

A release is one that answered here if it does now, or if the plan names it among those that did, in their slots.
"""

import math
from typing import NamedTuple

from device_agent.core.serving import ModelRef
from device_agent.worker.counts import ModelCounts
from device_agent.worker.places import Prepared
from device_agent.worker.residents import open_slot
from device_agent.worker.tally import Tally
from edgefleet.contracts.errors import EdgeFleetError


class _Classes(NamedTuple):
    labels: tuple[str, ...]
    outputs: int


class LateLabels:
    """Finds where a late label is counted; a slot is read once, when a label for its model comes."""

    def __init__(self) -> None:
        self._classes: dict[str, _Classes] = {}

    def counts_of(self, release: str, now: Prepared, tally: Tally) -> ModelCounts | None:
        """Return the counts of a release by its name and version; None for one that did not answer here."""
        for place in now.places.values():
            if place.primary.name == release:
                return place.counts
            if place.fallback is not None and place.fallback.name == release:
                return tally.of(place.fallback, "active")
        for ref in now.plan.earlier:
            if f"{ref.release.name} {ref.release.version}" == release:
                return self._out_of_its_slot(ref, tally)
        return None

    def _out_of_its_slot(self, ref: ModelRef, tally: Tally) -> ModelCounts | None:
        sha256 = ref.release.bundle_sha256
        if sha256 not in self._classes:
            try:
                interface = open_slot(ref).manifest.interface
            except EdgeFleetError:
                return None
            self._classes[sha256] = _Classes(interface.labels, math.prod(interface.outputs[0].shape))
        known = self._classes[sha256]
        return tally.counts_of(ref.release, "active", known.labels, known.outputs)
