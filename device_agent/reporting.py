# SPDX-License-Identifier: Apache-2.0
"""Telling the server: events and telemetry through the outbox, the retained state, and what is sent again when."""

import logging
from collections import deque

from device_agent.core.ledger import PART_ENTRIES, merge, parted
from device_agent.ports import Clock, Messenger, Outbox
from edgefleet.contracts.errors import MessageError, StorageError
from edgefleet.contracts.messages import Event, ModelWindow, State, Telemetry, Watermark

_LOG = logging.getLogger("edgefleet.agent")
#: Messages under way at a time, beyond the server's watermark.
IN_FLIGHT = 100
_RESEND_FIRST_S = 30.0
_RESEND_CAP_S = 600.0
_UNSTORED_LIMIT = 1000


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
        self._state: State | None = None
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
        start, restarts = self._window_start, self.restarts
        first, *rest = _messages(merge(self._windows))
        self._windows, self._window_start, self.restarts = [], now, 0
        self._store(
            Telemetry(window_start=start, window_end=now, models=first, rss_bytes=rss_bytes, worker_restarts=restarts)
        )
        for models in rest:
            self._store(Telemetry(window_start=start, window_end=now, models=models, rss_bytes=rss_bytes))

    def announce(self, state: State) -> None:
        """Set the retained state, if it changed."""
        if state != self._state:
            self._state = state
            self._messenger.announce(state)

    def stored(self, watermark: Watermark) -> None:
        """Let go of what the server has stored."""
        if watermark.epoch != self._outbox.epoch:
            return
        try:
            self._outbox.acknowledge(watermark.epoch, watermark.sequence)
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
            self._start_over()
        if not self._connection:
            return
        if self._resend_at is not None and self._clock.monotonic() >= self._resend_at:
            self._resend_s = min(2.0 * self._resend_s, _RESEND_CAP_S)
            self._start_over()
        if self._more:
            try:
                self._send_next()
            except StorageError as error:  # what cannot be read now is tried again at the next tick
                _LOG.warning("%s", error)
                self._start_over()

    def _start_over(self) -> None:
        self._cursor, self._more = 0, True
        self._under_way.clear()
        self._resend_at = None

    def _send_next(self) -> None:
        """Send as many messages as may be under way; gaps go first, because the watermark waits for them."""
        if self._cursor == 0:
            for gap in self._outbox.gaps():
                self._messenger.send(gap)
        room = IN_FLIGHT - len(self._under_way)
        messages = self._outbox.after(self._cursor, room)
        for message in messages:
            self._messenger.send(message)
            self._under_way.append(message.sequence)
            self._cursor = message.sequence
        self._more = len(messages) == room
        if self._under_way and self._resend_at is None:
            self._resend_at = self._clock.monotonic() + self._resend_s

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
