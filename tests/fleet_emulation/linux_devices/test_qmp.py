# SPDX-License-Identifier: Apache-2.0
"""QEMU's control socket when QEMU ends in the middle of it."""

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from edgefleet.contracts.errors import UnreachableError
from fleet_emulation.linux_devices.qmp import Qmp


@contextmanager
def _qemu(path: Path, then: Callable[[socket.socket], None]) -> Iterator[Qmp]:
    """A QEMU that answers the greeting's command, does `then`, and is gone."""

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.sendall(b'{"QMP": {}}\n')
            connection.recv(1000)
            connection.sendall(b'{"return": {}}\n')
            then(connection)

    with ExitStack() as closing:
        listener = closing.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        qmp = Qmp(path, alive=lambda: True, limit_s=120.0)
        thread.join()
        yield qmp


def _end(connection: socket.socket) -> None:
    connection.shutdown(socket.SHUT_RDWR)


def test_a_command_that_qemu_no_longer_takes_is_one_sentence_and_closing_is_quiet(tmp_path: Path) -> None:
    with _qemu(tmp_path / "qmp", _end) as qmp:
        with pytest.raises(UnreachableError, match=r"^QEMU does not answer 'query-status'$"):
            qmp.tell("query-status")
        qmp.close()
        assert qmp._connection.fileno() == -1


def test_half_an_answer_is_no_answer(tmp_path: Path) -> None:
    half = json.dumps({"return": {"status": "paused"}}).encode()[:12]
    with _qemu(tmp_path / "qmp", lambda connection: connection.sendall(half)) as qmp:
        with pytest.raises(UnreachableError, match=r"^QEMU does not answer 'query-status'$"):
            qmp.tell("query-status")
        qmp.close()
