# SPDX-License-Identifier: Apache-2.0
"""One thread that drives any number of connections (one in the field, many in a simulation)."""

import contextlib
import os
import selectors
import socket
import threading
import time
from typing import Protocol

#: How often a quiet connection is looked at: a ping is late by this at most, and brokers wait half a keepalive longer.
LOOK_S = 5.0


class Driven(Protocol):
    """A connection as its pump sees it; all of it is called from the pump's thread."""

    def step(self, now: float) -> None:
        """Connect if it is time, send what waits, keep the connection alive; ``now`` is monotonic seconds."""

    @property
    def due_at(self) -> float:
        """When :meth:`step` has something to do."""

    @property
    def client_socket(self) -> socket.socket | None:
        """The socket to select on."""

    @property
    def wants_to_read(self) -> bool:
        """Tell whether what comes may be read now."""

    @property
    def wants_to_write(self) -> bool:
        """Tell whether there are bytes to write."""

    def ready(self, *, readable: bool, writable: bool) -> None:
        """Read and write what can be without waiting."""

    def finish(self) -> None:
        """Send what waits, and end."""


class MqttPump:
    """The thread that drives all channels; each enters itself with :meth:`add`."""

    def __init__(self) -> None:
        self._channels: list[Driven] = []
        self._leaving: list[Driven] = []
        self._lock = threading.Lock()
        self._wake_in, self._wake_out = os.pipe()
        os.set_blocking(self._wake_out, False)
        self._watched = _Watched(self._wake_in)
        self._running = True
        self._thread = threading.Thread(target=self._run, name="mqtt", daemon=True)
        self._thread.start()

    def add(self, channel: Driven) -> None:
        """Start driving a channel."""
        with self._lock:
            self._channels.append(channel)
        self.wake()

    def remove(self, channel: Driven) -> None:
        """Let a channel send what waits, and stop driving it."""
        with self._lock:
            if channel in self._channels:
                self._channels.remove(channel)
                self._leaving.append(channel)
        self.wake()

    def wake(self) -> None:
        """Let the thread look at its channels now."""
        with contextlib.suppress(BlockingIOError):  # it is awake
            os.write(self._wake_out, b"\0")

    def stop(self) -> None:
        """Finish all channels and end the thread."""
        with self._lock:
            self._leaving += self._channels
            self._channels = []
        self._running = False
        self.wake()
        self._thread.join(5.0)
        os.close(self._wake_in)
        os.close(self._wake_out)

    def _run(self) -> None:
        while True:
            with self._lock:
                channels, leaving = list(self._channels), list(self._leaving)
                self._leaving.clear()
            for channel in leaving:
                channel.finish()
            if not self._running:
                self._watched.close()
                return
            now = time.monotonic()
            for channel in channels:
                if channel.due_at <= now:
                    channel.step(now)
            self._watched.follow(channels)
            wait_s = min([LOOK_S, *(channel.due_at - time.monotonic() for channel in channels)])
            for channel, readable, writable in self._watched.wait(max(wait_s, 0.0)):
                channel.ready(readable=readable, writable=writable)


class _Watched:
    """The sockets of the channels in one selector, which is told only of what changed since the last look."""

    def __init__(self, wake_in: int) -> None:
        self._wake_in = wake_in
        self._selector = selectors.DefaultSelector()
        self._selector.register(wake_in, selectors.EVENT_READ)
        self._known: dict[Driven, tuple[socket.socket, int]] = {}

    def follow(self, channels: list[Driven]) -> None:
        """Watch the sockets that the channels have now, for what they have to do."""
        ends = {channel: (end, _events(channel)) for channel in channels if (end := channel.client_socket)}
        wanted = {channel: (end, events) for channel, (end, events) in ends.items() if events}
        # First of all what is gone: a new socket may have the number of one that was closed.
        for channel, (end, _) in list(self._known.items()):
            if channel not in wanted or wanted[channel][0] is not end:
                self._selector.unregister(end)
                del self._known[channel]
        for channel, (end, events) in wanted.items():
            if channel not in self._known:
                self._selector.register(end, events, channel)
            elif self._known[channel][1] != events:
                self._selector.modify(end, events, channel)
            self._known[channel] = (end, events)

    def wait(self, limit_s: float) -> list[tuple[Driven, bool, bool]]:
        """Return the channels that can read or write; none if there was a wake-up, or nothing in time."""
        ready = []
        for key, events in self._selector.select(limit_s):
            if key.data is None:
                os.read(self._wake_in, 4096)
            else:
                ready.append((key.data, bool(events & selectors.EVENT_READ), bool(events & selectors.EVENT_WRITE)))
        return ready

    def close(self) -> None:
        """Watch nothing any more."""
        self._selector.close()


def _events(channel: Driven) -> int:
    reading = selectors.EVENT_READ if channel.wants_to_read else 0
    return reading | (selectors.EVENT_WRITE if channel.wants_to_write else 0)
