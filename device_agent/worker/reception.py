# SPDX-License-Identifier: Apache-2.0
"""Between applications and the engine: what is answered at once, what waits, what is refused.

A request for an inference runs at once where nothing else waits. Otherwise it waits in the order of deadlines, or is
refused with ``busy`` at once where its deadline cannot be kept. Requests for a model that is being replaced wait too.
Of an application that sends many requests at once, one is taken in each turn of the loop, as of every other.
"""

import time
from collections.abc import Iterable

from device_agent.core.serving import LaneCall
from device_agent.inference_protocol import (
    DeclareRequest,
    FeedbackRequest,
    InferRequest,
    InfoRequest,
    RingRequest,
    ShareRequest,
)
from device_agent.worker.applications import Applications
from device_agent.worker.backlog import Backlog
from device_agent.worker.door import Asked
from device_agent.worker.engine import Engine, Reply
from device_agent.worker.lanes import SLOW_S, Lanes
from device_agent.worker.sessions import LOOKS, Session

#: How long the worker looks into shared memory after a request came through it: about as long as it takes to be woken,
#: so that looking in vain at most doubles that (Karlin et al., 1990). And how soon a request must follow the last
#: answer for the next one to be looked for: an application that asks less often rings, so that an idle worker sleeps.
LOOK_S = 0.0001
SOON_S = 0.0003
#: While the worker looks, sockets are heard this often.
_TURN_S = 0.0005
_MICRO = 1e-6
#: A deadline may be any number of 64 bits; the system's clocks count no sleep as long as that.
_LONGEST_SLEEP_S = 3600.0
#: Of each new duration in the expected one.
_WEIGHT = 0.2
#: Shared memory of all applications together; who comes late is told to use the socket.
SHARED_LIMIT_BYTES = 256 << 20
#: Names whose durations are remembered: applications may ask for models that do not exist.
_COSTS_LIMIT = 256


class Reception:
    """Takes the requests of all sessions; :meth:`hear` after something came, :meth:`work` once a turn of the loop."""

    def __init__(self, engine: Engine, applications: Applications, wake: int) -> None:
        self._engine = engine
        self._applications = applications
        self._lanes = Lanes(engine, wake)
        self._backlog: Backlog[Session] = Backlog()
        self._costs: dict[str, float] = {}
        self._looked_for: list[Session] = []
        self._shared_bytes = 0
        #: Sessions that have sent more than was taken in this turn, in the order in which they will be heard.
        self._unheard: dict[Session, None] = {}

    @property
    def busy(self) -> bool:
        """Tell whether a lane runs a model just now."""
        return bool(self._lanes.busy)

    def lane_calls(self) -> tuple[LaneCall, ...]:
        """Return what the lanes run just now."""
        return self._lanes.calls()

    def hear(self, session: Session) -> None:
        """Take the next request of a session, if one may be taken now; what is behind it waits for the others' turn."""
        request = None if session.closed else session.next_request()
        match request:
            case None:
                return
            case InferRequest():
                self._ask(session)
            case RingRequest():
                self._look_for(session)
                self._ask(session)
            case FeedbackRequest():
                session.reply(self._engine.feedback(*request))
            case InfoRequest(model):
                session.reply(self._engine.info(model))
            case DeclareRequest(document):
                session.reply(self._applications.declare(session, document))
            case ShareRequest():
                self._share(session, request)
        if session.has_more:
            self._unheard[session] = None

    def work(self) -> Iterable[Session]:
        """Answer what waits: one request, or those that come through shared memory for a while; yield who was."""
        now_s = time.monotonic()
        unheard, self._unheard = self._unheard, {}
        for session in unheard:
            yield from self._go_on(session)
        for late in self._backlog.take_expired(now_s) if len(self._backlog) else ():
            late.sender.reply(Reply("deadline", detail="the request waited longer than its deadline"))
            yield from self._go_on(late.sender)
        waiting = self._backlog.take(self._blocked()) if len(self._backlog) else None
        if waiting is not None and waiting.sender.asked is not None:
            self._run(waiting.sender, waiting.model)
            yield from self._go_on(waiting.sender)
            yield from self._stop_looking()  # while others wait there is no time to look
        elif self._looked_for:
            yield from self._look()

    def wait_s(self) -> float | None:
        """Return how long the loop may sleep; None for as long as nothing comes."""
        if self._looked_for or self._unheard:
            return 0.0
        if not len(self._backlog):
            return None
        if self._backlog.ready(self._blocked()):
            return 0.0
        deadline_s = self._backlog.next_deadline_s()
        return None if deadline_s is None else min(max(deadline_s - time.monotonic(), 0.0), _LONGEST_SLEEP_S)

    def take_answered(self) -> list[Session]:
        """Send what the lanes have answered; return whom."""
        answered = self._lanes.answered()
        for answer in answered:
            answer.session.reply(answer.reply)
            self._note_cost(answer.model, answer.seconds)
        return [answer.session for answer in answered]

    def forget(self, session: Session) -> None:
        """Let go of a session that ends."""
        self._shared_bytes -= session.shared_bytes
        self._unheard.pop(session, None)
        self._backlog.drop(session)
        if session in self._looked_for:
            self._looked_for.remove(session)

    def _share(self, session: Session, request: ShareRequest) -> None:
        """Give a session shared memory, as long as there is room."""
        before_bytes = session.shared_bytes
        why = session.share(request, SHARED_LIMIT_BYTES - self._shared_bytes)
        self._shared_bytes += session.shared_bytes - before_bytes
        if why:
            session.reply(Reply("failed", detail=why))

    def _ask(self, session: Session) -> None:
        """Run a request, let it wait, or refuse it."""
        asked = session.asked
        assert asked is not None  # noqa: S101  next_request() put it there
        model = asked.model
        if session.declaration is not None and (misfit := self._applications.misfit(session, model)):
            session.reply(misfit)
            return
        deadline_s = asked.deadline_us * _MICRO
        if deadline_s and time.monotonic() > deadline_s:
            session.reply(Reply("deadline", detail="the request waited longer than its deadline"))
        elif not (self._engine.holding or self._lanes.busy or self._backlog or self._is_slow(model)):
            self._answer(session, asked)
        else:
            self._wait(session, self._engine.name_of(model), deadline_s, self._costs.get(model, 0.0))

    def _wait(self, session: Session, model: str, deadline_s: float, cost_s: float) -> None:
        now_s = time.monotonic()
        held = model in self._engine.holding
        refusal = self._backlog.refusal(now_s, deadline_s, 0.0 if held else cost_s)
        if refusal is not None:
            session.reply(Reply("busy", detail=refusal))
            return
        self._backlog.add(session, model, now_s=now_s, deadline_s=deadline_s, cost_s=cost_s)

    def _run(self, session: Session, model: str) -> None:
        asked = session.asked
        if asked is None or session.closed:
            return
        if self._is_slow(model):
            self._lanes.give(self._engine.name_of(model), session)
        else:
            self._answer(session, asked)

    def _answer(self, session: Session, asked: Asked) -> None:
        """Answer now; what can wait is done after the application has its answer."""
        model, clock = asked.model, time.perf_counter
        started = clock()
        session.reply(self._engine.infer_safely(asked.raw, model))
        self._note_cost(model, clock() - started)
        self._engine.settle()

    def _note_cost(self, model: str, seconds: float) -> None:
        costs = self._costs
        costs[model] = seconds * _WEIGHT + costs.get(model, seconds) * (1.0 - _WEIGHT)
        if len(costs) > _COSTS_LIMIT:
            costs.clear()

    def _is_slow(self, model: str) -> bool:
        return self._costs.get(model, 0.0) > SLOW_S and self._engine.several

    def _blocked(self) -> frozenset[str]:
        return self._engine.holding | self._lanes.busy

    def _go_on(self, session: Session) -> Iterable[Session]:
        self.hear(session)
        yield session

    def _look_for(self, session: Session) -> None:
        """Look for a session's next request in the memory, where its requests come soon one after another."""
        now_s = time.monotonic()
        soon = now_s - session.last_answer_s < SOON_S
        session.last_used_s = now_s
        if soon and LOOKS and session.door is not None and session not in self._looked_for:
            self._looked_for.append(session)
            session.door.look_for(looking=True)

    def _look(self) -> Iterable[Session]:
        """Look into the memory until nothing came for a while, or the others' turn has come."""
        clock = time.perf_counter
        turn_s = clock() + _TURN_S
        until_s = clock() + LOOK_S
        while (now_s := clock()) < until_s:
            for session in self._looked_for:
                if session.look():
                    self._ask(session)
                    if session.asked is not None or session.wants_to_write or session.closed:
                        yield session
                        return
                    until_s = clock() + LOOK_S
                elif session.closed:  # it was refused
                    yield session
                    return
            if now_s > turn_s:
                return
        yield from self._stop_looking()

    def _stop_looking(self) -> Iterable[Session]:
        """Ask for rings again, and look once more: a request may have crossed with that."""
        stopped, self._looked_for = self._looked_for, []
        for session in stopped:
            session.last_used_s = time.monotonic()
            if session.door is not None:
                session.door.look_for(looking=False)
        for session in stopped:
            if session.look():
                self._ask(session)
                yield session
