# SPDX-License-Identifier: Apache-2.0
"""The worker process: ``python -m device_agent.worker.main LISTENING_FD CONTROL_FD PARENT_PID THREADS``.

One thread answers applications and switches models; a second one loads and verifies, so that requests do not wait
for it. The supervisor owns the listening socket: connections queue there while a worker restarts.
"""

import os
import queue
import random
import selectors
import signal
import socket
import sys
import threading

from device_agent.control_channel import ControlChannel
from device_agent.core.serving import (
    Collect,
    Collected,
    Command,
    Report,
    ServingPlan,
    Stop,
    Verify,
)
from device_agent.process_bounds import die_with_parent, rss_bytes
from device_agent.worker.engine import Engine, Prepared, verify
from device_agent.worker.sessions import Session

_READ = selectors.EVENT_READ
_WRITE = selectors.EVENT_WRITE
#: Applications beyond this many cost the one that was silent for longest its connection; files stay free for models.
SESSION_LIMIT = 512
#: Half-sent requests and unread answers of all applications together.
BUFFER_LIMIT_BYTES = 256 << 20
_LARGE_BYTES = 1 << 20


class Worker:
    """The event loop of one worker."""

    def __init__(self, listener: socket.socket, control: socket.socket, engine: Engine) -> None:
        self._engine = engine
        self._listener = listener
        self._control = ControlChannel(control)
        self._selector = selectors.DefaultSelector()
        self._sessions: dict[int, Session] = {}
        self._loading: queue.SimpleQueue[ServingPlan | Verify] = queue.SimpleQueue()
        self._loaded: queue.SimpleQueue[Prepared | Report] = queue.SimpleQueue()
        self._wake_in, self._wake_out = os.pipe()
        self._running = True
        self._accepting = False

    def run(self) -> None:
        """Serve until the supervisor says stop or is gone."""
        self._listener.setblocking(False)
        self._selector.register(self._control.socket, _READ, self._commanded)
        self._selector.register(self._wake_in, _READ, self._take_loaded)
        threading.Thread(target=self._load_forever, daemon=True, name="loader").start()
        while self._running:
            for key, events in self._selector.select():
                if isinstance(key.data, Session):
                    if key.data.connection.fileno() >= 0:  # else it was ended a moment ago, for another one
                        self._attend(key.data, events)
                else:
                    key.data()
                self._report_faults()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # it went away again
        if len(self._sessions) >= SESSION_LIMIT:
            self._end(min(self._sessions.values(), key=lambda known: known.last_used_s))
        session = Session(connection, self._engine)
        self._sessions[connection.fileno()] = session
        self._selector.register(connection, _READ, session)

    def _attend(self, session: Session, events: int) -> None:
        if events & _WRITE:
            session.writable()
        if events & _READ and not session.closed:
            session.readable()
        if session.closed or self._takes_too_much(session):
            self._end(session)
        else:
            self._selector.modify(session.connection, _WRITE if session.wants_to_write else _READ, session)

    def _takes_too_much(self, session: Session) -> bool:
        if session.buffered_bytes < _LARGE_BYTES:
            return False
        return sum(known.buffered_bytes for known in self._sessions.values()) > BUFFER_LIMIT_BYTES

    def _end(self, session: Session) -> None:
        self._selector.unregister(session.connection)
        del self._sessions[session.connection.fileno()]
        session.connection.close()

    def _commanded(self) -> None:
        commands = self._control.receive(Command)
        if commands is None:
            self._running = False
            return
        for command in commands:
            self._obey(command)

    def _obey(self, command: Command) -> None:
        if isinstance(command, Stop):
            self._running = False
        elif isinstance(command, Collect):
            collected = self._engine.collect()
            self._control.send(Collected(models=collected.models, rss_bytes=rss_bytes()))
        else:
            self._loading.put(command)

    def _load_forever(self) -> None:
        while True:
            command = self._loading.get()
            outcome = verify(command.model) if isinstance(command, Verify) else self._engine.prepare(command)
            self._loaded.put(outcome)
            os.write(self._wake_out, b"\0")

    def _take_loaded(self) -> None:
        os.read(self._wake_in, 4096)
        while not self._loaded.empty():
            outcome = self._loaded.get()
            self._control.send(self._engine.switch(outcome) if isinstance(outcome, Prepared) else outcome)
        if not self._accepting:  # until there is a plan, applications wait in the supervisor's socket
            self._accepting = True
            self._selector.register(self._listener, _READ, self._accept)

    def _report_faults(self) -> None:
        for fault in self._engine.take_faults():
            self._control.send(fault)


def main(arguments: list[str]) -> int:
    """Run a worker on inherited file descriptors."""
    listening_fd, control_fd, parent_pid, threads = (int(argument) for argument in arguments)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent_pid)
    engine = Engine(random=random.random, nonce=int.from_bytes(os.urandom(4), "little"), threads=threads)
    Worker(socket.socket(fileno=listening_fd), socket.socket(fileno=control_fd), engine).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
