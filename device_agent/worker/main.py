# SPDX-License-Identifier: Apache-2.0
"""The worker process.

    python -m device_agent.worker.main LISTENING_FD CONTROL_FD MARK_FD PARENT_PID THREADS [READABLE…]

EDGEFLEET_WORKER_ACCELERATOR in the environment is the setting `accelerator` as JSON, empty without one.

One thread answers applications and switches models; a second one loads and verifies, so that requests do not wait
for it; each slow model beside others has a lane of its own. The supervisor owns the listening socket: connections
queue there while a worker restarts.
"""

import errno
import mmap
import os
import random
import selectors
import signal
import socket
import sys
from collections import deque

import msgspec

from device_agent.control_channel import ControlChannel
from device_agent.core.serving import Collect, Command, ServingPlan, Stop, Verify
from device_agent.core.settings.accelerator_settings import AcceleratorSettings
from device_agent.process_bounds import (
    ACCELERATOR_VARIABLE,
    allow_open_files,
    die_with_parent,
    leave_no_core,
    let_go_of_start_up_code,
    private_bytes,
)
from device_agent.sandbox.confinement import confine
from device_agent.worker.accelerator import Accelerator
from device_agent.worker.applications import Applications
from device_agent.worker.engine import Engine
from device_agent.worker.loader import Loader
from device_agent.worker.reception import Reception
from device_agent.worker.sessions import Session

_READ = selectors.EVENT_READ
_WRITE = selectors.EVENT_WRITE
#: After so many requests for counts the start is over, and its code is let go.
_SETTLED_COLLECTS = 3
#: Applications beyond this many, or beyond what there may be open files for, cost the one that was silent for longest
#: its connection. Each may have two files, its connection and its shared memory; the rest stays free for models.
SESSION_LIMIT = 512
_FILES_EACH, _FILES_KEPT = 2, 64
#: Half-sent requests and unread answers of all applications together; beyond it, who holds most loses its connection.
BUFFER_LIMIT_BYTES = 256 << 20
_LARGE_BYTES = 1 << 20
#: How long a thread may keep the others from running: a loading model is no reason for a late answer.
_SWITCH_S = 0.0005


class Worker:
    """The event loop of one worker."""

    def __init__(
        self, listener: socket.socket, control: socket.socket, engine: Engine, *, session_limit: int = SESSION_LIMIT
    ) -> None:
        self._engine = engine
        self._session_limit = session_limit
        self._listener = listener
        self._control = ControlChannel(control)
        self._selector = selectors.DefaultSelector()
        self._sessions: dict[int, Session] = {}
        self._wake_in, self._wake_out = os.pipe()
        self._applications = Applications(engine)
        self._reception = Reception(engine, self._applications, self._wake_out)
        self._loader = Loader(engine, self._wake_out)
        self._commands: deque[ServingPlan | Verify] = deque()
        self._collects = 0
        self._running = True
        self._accepting = False

    def run(self) -> None:
        """Serve until the supervisor says stop or is gone."""
        self._listener.setblocking(False)
        self._selector.register(self._control.socket, _READ, self._commanded)
        self._selector.register(self._wake_in, _READ, self._woken)
        while self._running:
            for key, events in self._selector.select(self._reception.wait_s()):
                if isinstance(key.data, Session):
                    if key.data.connection.fileno() >= 0:  # else it was ended a moment ago, for another one
                        self._attend(key.data, events)
                else:
                    key.data()
            for session in self._reception.work():
                self._settle(session)
            self._report()
            self._load_next()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE) and self._sessions:  # then it is still there, and waits
                self._end_the_silent_one()
            return  # or it went away again
        if len(self._sessions) >= self._session_limit:
            self._end_the_silent_one()
        session = Session(connection)
        self._sessions[connection.fileno()] = session
        self._selector.register(connection, _READ, session)

    def _attend(self, session: Session, events: int) -> None:
        if events & _WRITE:
            session.writable()
        if events & _READ and not session.closed:
            session.readable()
        self._reception.hear(session)
        self._settle(session)

    def _settle(self, session: Session) -> None:
        """Wait for what the session can take now, or end it."""
        if session.connection.fileno() < 0:
            return
        if not session.closed and self._is_full(session):
            self._end(max(self._sessions.values(), key=lambda known: known.buffered_bytes))
        if session.closed:
            self._end(session)
            return
        events = _WRITE if session.wants_to_write else _READ if session.wants_to_read else 0
        known = self._selector.get_map().get(session.connection)
        if events and known is None:
            self._selector.register(session.connection, events, session)
        elif known is not None and not events:
            self._selector.unregister(session.connection)
        elif known is not None and known.events != events:
            self._selector.modify(session.connection, events, session)

    def _is_full(self, session: Session) -> bool:
        """Tell whether all hold too much, where a session holds much of it."""
        if session.buffered_bytes < _LARGE_BYTES:
            return False
        return sum(known.buffered_bytes for known in self._sessions.values()) > BUFFER_LIMIT_BYTES

    def _end_the_silent_one(self) -> None:
        self._end(min(self._sessions.values(), key=lambda known: known.last_used_s))

    def _end(self, session: Session) -> None:
        if session.connection.fileno() < 0:
            return
        if session.connection in self._selector.get_map():
            self._selector.unregister(session.connection)
        del self._sessions[session.connection.fileno()]
        self._reception.forget(session)
        session.close()

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
            lanes = self._reception.lane_calls()
            self._control.send(msgspec.structs.replace(collected, rss_bytes=private_bytes(), lanes=lanes))
            self._collects += 1
            if self._collects == _SETTLED_COLLECTS:
                let_go_of_start_up_code()
        else:
            if isinstance(command, ServingPlan):
                self._engine.unsure.follow(command.capture)
            self._commands.append(command)

    def _load_next(self) -> None:
        """Hand the next command to the loader; a cold one waits until nothing runs that it would take away."""
        if self._loader.busy or not self._commands:
            return
        command = self._commands[0]
        if isinstance(command, ServingPlan) and command.swap == "cold":
            self._engine.hold(command)
            if self._reception.busy:
                return
            self._engine.let_go(command)
        self._loader.give(self._commands.popleft())

    def _woken(self) -> None:
        os.read(self._wake_in, 4096)
        for session in self._reception.take_answered():
            self._reception.hear(session)
            self._settle(session)
        for outcome in self._loader.outcomes():
            if outcome.prepared is not None:
                self._engine.switch(outcome.prepared)
            self._control.send(outcome.report)
            if not self._accepting:  # until there is a plan, applications wait in the supervisor's socket
                self._accepting = True
                self._selector.register(self._listener, _READ, self._accept)

    def _report(self) -> None:
        unsure = self._engine.unsure.take_reports()
        lost = self._engine.accelerator.take_reports()
        for report in (*self._engine.take_faults(), *lost, *self._applications.take_reports(), *unsure):
            self._control.send(report)


def sessions_that_fit(open_files: int) -> int:
    """Return how many applications may be connected where so many files may be open."""
    return min(max((open_files - _FILES_KEPT) // _FILES_EACH, 1), SESSION_LIMIT)


def main(arguments: list[str]) -> int:
    """Run a worker on inherited file descriptors."""
    listening_fd, control_fd, mark_fd, parent_pid, threads = (int(argument) for argument in arguments[:5])
    said = os.environ.get(ACCELERATOR_VARIABLE)
    given = msgspec.json.decode(said, type=AcceleratorSettings) if said else None
    readable = [*arguments[5:], *([given.library] if given else [])]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent(parent_pid)
    leave_no_core()
    sys.setswitchinterval(_SWITCH_S)
    mark = memoryview(mmap.mmap(mark_fd, mmap.PAGESIZE))
    for sentence in confine(readable, devices=given.devices if given else ()).missing:
        print(f"the worker is not confined: {sentence}", file=sys.stderr)  # noqa: T201  into the agent's log
    nonce = int.from_bytes(os.urandom(4), "little")
    engine = Engine(random=random.random, nonce=nonce, threads=threads, mark=mark, accelerator=Accelerator(given))
    limit = sessions_that_fit(allow_open_files(SESSION_LIMIT * _FILES_EACH + _FILES_KEPT))
    listener, control = socket.socket(fileno=listening_fd), socket.socket(fileno=control_fd)
    Worker(listener, control, engine, session_limit=limit).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
