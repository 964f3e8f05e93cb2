# SPDX-License-Identifier: Apache-2.0
"""The host's end of a device's control port; :mod:`fleet_emulation.linux_devices.inside.control` is the other one."""

import itertools
import json
import socket
import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as NoAnswerError
from contextlib import suppress
from typing import Any, NamedTuple

from edgefleet.contracts.errors import UnreachableError
from fleet_emulation.linux_devices.inside.control import LENGTHS, receive

#: How much longer than the device itself the host waits for an answer.
GRACE_S = 20.0
_HINT = "see the device's console"


class Answer(NamedTuple):
    """What the device answered; ``message`` has ``error`` where it could not do what it should."""

    message: dict[str, Any]
    payload: bytes


class Control:
    """Sends requests from any thread, and hands each the answer with its number."""

    def __init__(self, connection: socket.socket, name: str) -> None:
        self._connection = connection
        self._name = name
        self._numbers = itertools.count(1)
        self._sending = threading.Lock()
        self._waiting: dict[int, Future[Answer]] = {}
        self._closed = False
        self._reader = threading.Thread(target=self._read, name=f"control of {name}", daemon=True)
        self._reader.start()

    def ask(
        self, do: str, payload: bytes = b"", *, limit_s: float, grace_s: float = GRACE_S, **fields: object
    ) -> Answer:
        """Send a request and wait for its answer: ``limit_s`` is the device's own time, ``grace_s`` that of the way.

        Raises:
            UnreachableError: the device went off, or does not answer in time.
        """
        number = next(self._numbers)
        answer: Future[Answer] = Future()
        self._waiting[number] = answer
        head = json.dumps({"id": number, "do": do, "limit_s": limit_s, **fields}).encode()
        try:
            self._send(LENGTHS.pack(len(head), len(payload)) + head + payload)
            return answer.result(limit_s + grace_s)
        except NoAnswerError:
            what = f"{self._name} does not answer '{do}' within {limit_s + grace_s:.0f} s"
            raise UnreachableError(what, hint=_HINT) from None
        except OSError:
            raise UnreachableError(f"{self._name} is off", hint=_HINT) from None
        finally:
            self._waiting.pop(number, None)

    def close(self) -> None:
        """End the connection; whoever waits for an answer is told."""
        with suppress(OSError):  # QEMU closed it first
            self._connection.shutdown(socket.SHUT_RDWR)
        self._reader.join()
        self._connection.close()

    def _send(self, message: bytes) -> None:
        with self._sending:
            if self._closed:
                raise ConnectionResetError("the device went off")
            self._connection.sendall(message)

    def _read(self) -> None:
        try:
            while True:
                lengths = LENGTHS.unpack(receive(self._connection, LENGTHS.size))
                head, payload = (receive(self._connection, length) for length in lengths)
                message = json.loads(head)
                if answer := self._waiting.get(message["id"]):
                    answer.set_result(Answer(message, payload))
        except (OSError, ValueError):  # ValueError: garbage, after which no message can be found any more
            with self._sending:
                self._closed = True
            for answer in list(self._waiting.values()):
                if not answer.done():
                    answer.set_exception(ConnectionResetError("the device went off"))
