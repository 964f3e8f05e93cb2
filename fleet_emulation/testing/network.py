# SPDX-License-Identifier: Apache-2.0
"""Faulty links: small TCP relays on loopback that delay, lose, throttle and part what goes through them.

A relay stands between a device and a server. TCP hides a lost packet from applications: all they see is that bytes come
later, because the sender waits and sends again. So a lost segment here is one that is late by the retransmission
timeout (RFC 6298: 200 ms on Linux, doubled each time it is lost again). Which segments are lost follows from the seed,
the connection's number, its direction and the segment's place in the stream, and from nothing that timing changes.
"""

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from edgefleet.contracts.errors import InputError

T = TypeVar("T")
SEGMENT_BYTES = 1460
RETRANSMISSION_S = 0.2
_CONNECT_LIMIT_S = 10.0
#: socket(7): linger for no time at all, which sends a reset in the place of an orderly end.
_RESET_AT_CLOSE = struct.pack("ii", 1, 0)


@dataclass(frozen=True, kw_only=True)
class Faults:
    """What a link does to each segment: both ways alike.

    ``delay_s`` and up to ``jitter_s`` more, ``loss`` (0 to below 1) the share of segments that are lost,
    ``bytes_per_s`` the line's rate.
    """

    delay_s: float = 0.0
    jitter_s: float = 0.0
    loss: float = 0.0
    bytes_per_s: float | None = None

    def __post_init__(self) -> None:
        if self.delay_s < 0 or self.jitter_s < 0 or not 0 <= self.loss < 1:
            raise InputError(
                f"a link cannot have a delay of {self.delay_s} s, a jitter of {self.jitter_s} s "
                f"and a loss of {self.loss}",
                hint="times are 0 or more, the loss is a share from 0 to below 1",
            )
        if self.bytes_per_s is not None and self.bytes_per_s <= 0:
            raise InputError(
                f"a link cannot carry {self.bytes_per_s} bytes a second",
                hint="give a rate above 0, or None for no limit",
            )


@dataclass
class Traffic:
    """What went through a link: connections, bytes of each direction, and segments that were lost on the way."""

    connections: int = 0
    refused: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    lost_segments: int = 0


def lateness_s(dice: random.Random, faults: Faults) -> tuple[float, int]:
    """Draw by how much one segment is late, and how often it was lost."""
    late_s = faults.delay_s + dice.random() * faults.jitter_s
    wait_s, lost = RETRANSMISSION_S, 0
    while dice.random() < faults.loss:
        late_s += wait_s
        wait_s *= 2
        lost += 1
    return late_s, lost


class Link:
    """One relay from a port of its own on 127.0.0.1 to a server's; see :meth:`Network.link`."""

    def __init__(self, network: "Network", to_port: int, faults: Faults, seed: int) -> None:
        self._network = network
        self._to_port = to_port
        self._seed = seed
        self._writers: set[asyncio.StreamWriter] = set()
        self._whole = asyncio.Event()
        self._whole.set()
        self.faults = faults
        self.traffic = Traffic()
        self.port = 0
        self._server: asyncio.Server | None = None

    @property
    def parted(self) -> bool:
        """Tell whether nothing passes at present."""
        return not self._whole.is_set()

    def change(self, **faults: float | None) -> None:
        """Change some of the faults, from the next segment on."""
        self.faults = replace(self.faults, **faults)  # type: ignore[arg-type]  # checked by Faults itself

    def part(self) -> None:
        """Let nothing pass, either way, and tell nobody: connections stay open, and new ones get no answer."""
        self._network.call(self._whole.clear)

    def heal(self) -> None:
        """Let everything pass again; what was sent meanwhile arrives."""
        self._network.call(self._whole.set)

    def reset_connections(self) -> None:
        """End every connection with a reset, as a rebooting router does."""
        self._network.call(self._reset)

    def close(self) -> None:
        """Stop listening, and end every connection."""
        self._network.run(self._close())

    async def open(self) -> None:
        """Listen; on the network's own thread."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    def _reset(self) -> None:
        for writer in self._writers:
            if not writer.transport.is_closing():
                connection = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_AT_CLOSE)
            writer.transport.abort()

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._reset()

    async def _relay(self, near: asyncio.StreamReader, near_writer: asyncio.StreamWriter) -> None:
        self.traffic.connections += 1
        number = self.traffic.connections
        self._writers.add(near_writer)
        far_writer = None
        try:
            await self._whole.wait()
            far, far_writer = await asyncio.wait_for(
                asyncio.open_connection("127.0.0.1", self._to_port), _CONNECT_LIMIT_S
            )
            self._writers.add(far_writer)
            await asyncio.gather(
                self._pump(near, far_writer, number, "up"), self._pump(far, near_writer, number, "down")
            )
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            if far_writer is None:
                self.traffic.refused += 1
        finally:
            for writer in (near_writer, far_writer):
                if writer is not None:
                    self._writers.discard(writer)
                    writer.transport.abort() if writer.transport.is_closing() else writer.close()

    async def _pump(
        self, source: asyncio.StreamReader, target: asyncio.StreamWriter, number: int, direction: str
    ) -> None:
        """Carry one direction's bytes, segment by segment and in order, until the sender has no more."""
        segments = _Segments(f"{self._seed}/{number}/{direction}")
        on_the_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)
        delivery = asyncio.create_task(self._deliver(on_the_way, target))
        line_free_s = 0.0
        clock = asyncio.get_running_loop().time
        try:
            while data := await source.read(SEGMENT_BYTES):
                late_s, lost = segments.lateness(len(data), self.faults)
                self.traffic.lost_segments += lost
                sent_s = clock()
                if self.faults.bytes_per_s is not None:
                    sent_s = line_free_s = max(sent_s, line_free_s) + len(data) / self.faults.bytes_per_s
                self._count(direction, len(data))
                await on_the_way.put((sent_s + late_s, data))
            await on_the_way.put((0.0, b""))
            await delivery
        finally:
            delivery.cancel()

    async def _deliver(self, on_the_way: "asyncio.Queue[tuple[float, bytes]]", target: asyncio.StreamWriter) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            due_s, data = await on_the_way.get()
            await asyncio.sleep(max(0.0, due_s - clock()))
            await self._whole.wait()
            if not data:
                break
            target.write(data)
            await target.drain()
        if target.can_write_eof():
            target.write_eof()

    def _count(self, direction: str, size_bytes: int) -> None:
        if direction == "up":
            self.traffic.bytes_up += size_bytes
        else:
            self.traffic.bytes_down += size_bytes


class _Segments:
    """Decides the fate of a stream's segments by their place in it, however reading cuts it into pieces."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._passed_bytes = 0

    def lateness(self, size_bytes: int, faults: Faults) -> tuple[float, int]:
        """Return by how much a piece is late, which is that of the segments that begin in it, and their losses."""
        first = -(-self._passed_bytes // SEGMENT_BYTES)
        self._passed_bytes += size_bytes
        begun = range(first, -(-self._passed_bytes // SEGMENT_BYTES))
        drawn = [lateness_s(random.Random(f"{self._seed}/{segment}"), faults) for segment in begun]
        if not drawn:
            return faults.delay_s, 0
        return max(late_s for late_s, _ in drawn), sum(lost for _, lost in drawn)


class Network:
    """The links of one test run; they share one thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="edgefleet-network", daemon=True)
        self._thread.start()
        self._links: list[Link] = []

    def link(
        self,
        to_port: int,
        *,
        delay_s: float = 0.0,
        jitter_s: float = 0.0,
        loss: float = 0.0,
        bytes_per_s: float | None = None,
        seed: int = 0,
    ) -> Link:
        """Return a link to a server on 127.0.0.1: ``port`` is where its clients connect; see :class:`Faults`.

        Raises:
            InputError: the faults are none that a link can have.
        """
        faults = Faults(delay_s=delay_s, jitter_s=jitter_s, loss=loss, bytes_per_s=bytes_per_s)
        link = self.run(self._opened(to_port, faults, seed))
        self._links.append(link)
        return link

    def part(self) -> None:
        """Part every link."""
        for link in self._links:
            link.part()

    def heal(self) -> None:
        """Heal every link."""
        for link in self._links:
            link.heal()

    def close(self) -> None:
        """Close every link, and end the thread."""
        for link in self._links:
            link.close()
        self.run(self._ended())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def call(self, function: Callable[[], object]) -> None:
        """Call a function on the network's thread, and wait for it."""

        async def called() -> None:
            function()

        self.run(called())

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine on the network's thread, and return what it returns."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _opened(self, to_port: int, faults: Faults, seed: int) -> Link:
        link = Link(self, to_port, faults, seed)
        await link.open()
        return link

    async def _ended(self) -> None:
        ours = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in ours:
            task.cancel()
        await asyncio.gather(*ours, return_exceptions=True)
