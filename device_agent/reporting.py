# SPDX-License-Identifier: Apache-2.0
"""Telling the server: events and telemetry through the outbox, the retained state, and what is sent again when."""

import logging
from collections import deque
from collections.abc import Callable

import msgspec

from device_agent.core.evidence.ledger import PART_ENTRIES, merge, parted
from device_agent.ports import Clock, Messenger, Outbox
from edgefleet.contracts.errors import MessageError, StorageError
from edgefleet.contracts.message_schema import downgrade
from edgefleet.contracts.messages import (
    FIRST_SCHEMA,
    SCHEMA,
    Capabilities,
    Event,
    ModelWindow,
    State,
    Telemetry,
    Watermark,
)

_LOG = logging.getLogger("edgefleet.agent")
#: Messages under way at a time, beyond the server's watermark.
IN_FLIGHT = 100
_RESEND_FIRST_S = 30.0
_RESEND_CAP_S = 600.0
_UNSTORED_LIMIT = 1000
#: How long a message that an old server would get less of waits for the server's word on what it understands.
_WORD_S = 3.0
#: A server that was restored gets what it lost again in small portions, and at most one in so long.
_REPLAY_MESSAGES = 20
_REPLAY_EVERY_S = 1.0


class Reporter:
    """The way of one device's messages from the outbox to the broker, again and again until they are stored."""

    def __init__(self, outbox: Outbox, messenger: Messenger, clock: Clock) -> None:
        self._outbox = outbox
        self._messenger = messenger
        self._clock = clock
        self._unstored: deque[Telemetry | Event] = deque(maxlen=_UNSTORED_LIMIT)
        self._windows: list[ModelWindow] = []
        self._window_start = clock.wall()
        self._cursor = 0
        self._more = True
        self._under_way: deque[int] = deque()
        self._connection = 0
        self._resend_s = _RESEND_FIRST_S
        self._resend_at: float | None = None
        self._lowered: int | None = None
        self._replay_to = 0
        self._replay_at = 0.0
        self._state: State | None = None
        self._schema: int | None = None
        self._word_by = 0.0
        self._evicted: int | None = None
        self.restarts = 0

    def event(self, event: Event) -> None:
        """Store an event durably; on a full disk it is kept in memory and stored later."""
        _LOG.info("%s (%s) %s", event.kind, event.cause, event.detail)
        self._store(event)

    def count(self, windows: tuple[ModelWindow, ...]) -> None:
        """Add counts to the window that the next telemetry reports."""
        self._windows += windows

    def telemetry(self, rss_bytes: int) -> None:
        """Close the window and store it as one message."""
        now = self._clock.wall()
        start, restarts, evicted = self._window_start, self.restarts, self._newly_evicted()
        first, *rest = _messages(merge(self._windows))
        self._windows, self._window_start, self.restarts = [], now, 0
        self._store(
            Telemetry(
                window_start=start,
                window_end=now,
                models=first,
                rss_bytes=rss_bytes,
                worker_restarts=restarts,
                evicted=evicted,
            )
        )
        for models in rest:
            self._store(Telemetry(window_start=start, window_end=now, models=models, rss_bytes=rss_bytes))

    def announce(self, state: State) -> None:
        """Set the retained state, if it changed."""
        state = self._as_understood(state)
        if state != self._state:
            self._state = state
            self._messenger.announce(state)

    def farewell(self, state: State) -> None:
        """Announce a last state, and end the connection."""
        self._messenger.close(self._as_understood(state))

    def understood(self, capabilities: Capabilities) -> None:
        """Hear which schema of messages the server understands."""
        self._schema = min(capabilities.schema, SCHEMA)

    def stored(self, watermark: Watermark) -> None:
        """Let go of what the server has stored, and note whether it has lost anything of that."""
        if watermark.epoch != self._outbox.epoch:
            return
        try:
            self._outbox.acknowledge(watermark.epoch, watermark.sequence)
            self._lowered = watermark.sequence if watermark.sequence < self._outbox.acknowledged() else None
        except (StorageError, MessageError) as error:
            _LOG.warning("%s", error)
            return
        stored = False
        while self._under_way and self._under_way[0] <= watermark.sequence:
            self._under_way.popleft()
            stored = True
        if stored:
            self._resend_s = _RESEND_FIRST_S
            self._resend_at = self._clock.monotonic() + self._resend_s if self._under_way else None

    def send(self) -> None:
        """Send what is not under way yet, and again what the server did not store in time."""
        self._store_late()
        if self._messenger.connection != self._connection:
            self._connection = self._messenger.connection
            self._word_by = self._clock.monotonic() + _WORD_S
            self._start_over()
        if not self._connection:
            return
        if self._resend_at is not None and self._clock.monotonic() >= self._resend_at:
            self._resend_s = min(2.0 * self._resend_s, _RESEND_CAP_S)
            self._schema = None  # an older server may have taken the other's place, and refuses what it does not know
            self._start_over()
            self._guarded(self._rewind)
        if self._more:
            self._guarded(self._send_next)

    def _guarded(self, step: Callable[[], None]) -> None:
        try:
            step()
        except StorageError as error:  # what cannot be read now is tried again at the next tick
            _LOG.warning("%s", error)
            self._start_over()

    def _rewind(self) -> None:
        """Where the last watermark is below what was acknowledged, and nothing came after it: send that again.

        A single late watermark does not get here, because newer ones follow it; a server that was restored from a
        backup goes on to say what it has.
        """
        if self._lowered is None:
            return
        sequence, self._lowered = self._lowered, None
        waiting = self._outbox.rewind(sequence, created_at=self._clock.wall())
        _LOG.warning("the server has lost messages above %d of its own: %d are sent again", sequence, waiting)
        self._replay_to = sequence + waiting

    def _start_over(self) -> None:
        self._cursor, self._more = 0, True
        self._under_way.clear()
        self._resend_at = None

    def _send_next(self) -> None:
        """Send as many messages as may be under way; gaps go first, because the watermark waits for them."""
        room = self._room()
        if room == 0:
            return
        if self._cursor == 0:
            for gap in self._outbox.gaps():
                self._messenger.send(downgrade(gap, self._schema or FIRST_SCHEMA))
        messages = self._outbox.after(self._cursor, room)
        self._more = len(messages) == room
        for message in messages:
            said = downgrade(message, self._schema or FIRST_SCHEMA)
            if said.body != message.body and self._schema is None and self._clock.monotonic() < self._word_by:
                self._more = True
                break
            self._messenger.send(said)
            self._under_way.append(message.sequence)
            self._cursor = message.sequence
        if self._under_way and self._resend_at is None:
            self._resend_at = self._clock.monotonic() + self._resend_s

    def _as_understood(self, state: State) -> State:
        """Return a state with what the outbox knows, for the server that is there."""
        try:
            evicted = self._outbox.evicted()
        except StorageError:  # said by whatever needs the outbox
            evicted = self._evicted or 0
        return downgrade(msgspec.structs.replace(state, evicted=evicted), self._schema or FIRST_SCHEMA)

    def _newly_evicted(self) -> int:
        """Return how many messages were evicted since the last look."""
        try:
            evicted = self._outbox.evicted()
        except StorageError:
            return 0
        before, self._evicted = self._evicted, evicted
        return max(evicted - before, 0) if before is not None else 0

    def _room(self) -> int:
        """Return how many more messages may be under way now."""
        if self._cursor >= self._replay_to:
            return IN_FLIGHT - len(self._under_way)
        now = self._clock.monotonic()
        if now < self._replay_at:
            return 0
        self._replay_at = now + _REPLAY_EVERY_S
        return max(_REPLAY_MESSAGES - len(self._under_way), 0)

    def _store(self, body: Telemetry | Event) -> None:
        self._unstored.append(body)
        self._store_late()

    def _store_late(self) -> None:
        while self._unstored:
            try:
                self._outbox.append(self._unstored[0], created_at=self._clock.wall())
            except StorageError as error:
                _LOG.warning("%s", error)
                return
            except MessageError as error:  # kept, it would block the watermark for ever
                _LOG.error("a message is dropped: %s", error)
            self._unstored.popleft()
            self._more = True


def _messages(windows: tuple[ModelWindow, ...]) -> list[tuple[ModelWindow, ...]]:
    """Return the windows as one message, or where its columns are too long for that, as one message a part."""
    parts = [part for window in windows for part in parted(window)]
    entries = sum(len(part.classes.bins) + len(part.labelled.counts) for part in parts)
    return [tuple(parts)] if entries <= PART_ENTRIES else [(part,) for part in parts]
