# SPDX-License-Identifier: Apache-2.0
"""Remembering labels over restarts of the worker and the agent.

They are stored with the telemetry that counts them, behind it: a power cut in between forgets both, and a label that is
given again then counts as it should.
"""

import logging

from device_agent.core.evidence.labels import LabelledRequests, LabelMemory, outcome
from device_agent.core.serving import Collected
from device_agent.ports import LabelStore
from edgefleet.contracts.errors import StorageError

_LOG = logging.getLogger("edgefleet.agent")


class Labelling:
    """The labels of one device, without a ``store`` in memory only."""

    def __init__(self, store: LabelStore | None) -> None:
        self._store = store
        known = store.load() if store else LabelMemory()
        self._requests = LabelledRequests(known.labelled)
        self._scores = known.scores
        self._unsaved = False

    @property
    def labelled(self) -> tuple[int, ...]:
        """The requests that have their label."""
        return tuple(self._requests)

    def count(self, collected: Collected) -> None:
        """Note which requests got their label."""
        if collected.labelled:
            self._requests.note(collected.labelled)
            self._scores = outcome(self._scores, collected.models)
            self._unsaved = True

    def save(self) -> None:
        """Store what is new; where the disk refuses, it is tried with the next telemetry."""
        if self._store is None or not self._unsaved:
            return
        try:
            self._store.save(LabelMemory(labelled=self.labelled, scores=self._scores))
            self._unsaved = False
        except StorageError as error:
            _LOG.warning("%s", error)
