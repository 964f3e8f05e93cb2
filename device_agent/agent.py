# SPDX-License-Identifier: Apache-2.0
"""One device's agent: carries out what the core decides, over its ports, from one thread that calls :meth:`tick`.

Rules that this module keeps:

1. A state is saved before its action is taken; a trial's attempt is taken off durably before each activation.
2. An event is stored before the state that it tells of, so that a power cut repeats an event and never loses one.
3. Whatever takes long (metadata, downloads, admission) runs on the executor; faults of the model are handled at once.
4. A trigger that the state does not know is a fault, and is answered by a rollback.
"""

import logging
from collections.abc import Callable
from typing import Any

from device_agent.capturing import Capturing
from device_agent.caretaking import Caretaking
from device_agent.core.identity import Identity
from device_agent.core.life.lifecycle import PREPARING, READY, LifecycleFaultError, Trigger, step
from device_agent.core.life.record import DeviceRecord, Software, member_of
from device_agent.core.life.recovery import recover
from device_agent.core.life.release_set import Member, ReleaseSet, changed, first_release
from device_agent.core.orders.release_orders import Order, SignedSettings, decide
from device_agent.core.serving import (
    Collected,
    ModelRef,
    Unsure,
)
from device_agent.core.settings.remote_settings import merged
from device_agent.core.timers import Timers
from device_agent.errors import TrustRefusedError
from device_agent.installation import Installation, Outcome
from device_agent.memory import Memory
from device_agent.polling import Polling
from device_agent.ports import Ports
from device_agent.process_bounds import rss_bytes
from device_agent.release_life import ReleaseLife
from device_agent.reporting import Reporter
from device_agent.settings import AgentSettings
from device_agent.software_update import SoftwareUpdate
from edgefleet.contracts.device_settings import read_remote_settings
from edgefleet.contracts.errors import EdgeFleetError, TrustError
from edgefleet.contracts.messages import SCHEMA, Capabilities, DeviceStatus, RunningRelease, State, Watermark

_LOG = logging.getLogger("edgefleet.agent")
_WAIT_LIMIT_S = 5.0
#: How long the first question to the server waits for the worker's start, which it would only slow down.
_WORKER_FIRST_S = 10.0


class Agent:
    """The supervisor of one device. All methods are called from one thread, but ``wake`` may come from any."""

    def __init__(
        self,
        identity: Identity,
        settings: AgentSettings,
        ports: Ports,
        *,
        software: Software,
        time_scale: float = 1.0,
        factory: ModelRef | None = None,
    ) -> None:
        self.ports = ports
        self.timers = Timers()
        self.memory = Memory(ports, self.timers)
        self.polling = Polling(ports, self.timers, poll_s=settings.poll_s / time_scale, wake=lambda: self.wake())
        self.wake: Callable[[], None] = lambda: None
        self._identity = identity
        self._own_settings = self._settings = settings
        self._software = software
        self._scale = time_scale
        self._reporter = Reporter(ports.outbox, ports.messenger, ports.clock)
        self._installation = Installation(ports, identity.profile, settings.applications, lambda: self.wake())
        self._life = ReleaseLife(
            ports,
            settings,
            self.timers,
            self.memory,
            self._reporter,
            software=software,
            time_scale=time_scale,
            factory=factory,
            drop_installation=self._installation.cancel,
        )
        self._event = self._life.chronicle.event
        self._began_with: ReleaseSet = ()
        self._capturing = Capturing(ports, time_scale=time_scale)
        #: The agent's own software: what runs, and following orders that name another.
        self.software = SoftwareUpdate(ports, self.timers, self.memory, self._event, wake=lambda: self.wake())
        self._care = Caretaking(ports, self.timers, time_scale=time_scale, wake=lambda: self.wake())

    # ------------------------------------------------------------------ life of the agent

    @property
    def record(self) -> DeviceRecord:
        """What the agent remembers."""
        return self.memory.record

    @property
    def status(self) -> DeviceStatus:
        """The state of the life cycle."""
        return self.memory.status

    def start(self) -> None:
        """Load what is remembered, account for how the last run ended, and start to serve."""
        remembered, repair = self.memory.load()
        now = self.ports.clock.wall()
        recovery = recover(remembered, boot_id=self.ports.boot_id, now=now, software=self._software)
        self.memory.save(recovery.record)
        self._began_with = recovery.record.active
        if repair:
            self._event("state-repaired", "unreadable", repair)
        self._event("agent-started", "clean-start" if recovery.death == "clean" else "unclean-start")
        self._guarded(self._use_settings)
        self._life.start()
        self.polling.first(self._mono() + (_WORKER_FIRST_S if self._life.worker.plan.models else 0.0))
        self._plan_telemetry()
        self._care.plan_first()

    def tick(self) -> float:
        """Do what is due, and return the seconds until something will be (less, if :attr:`wake` is called)."""
        self._take_reports()
        self._guarded(self._finish_poll)
        self._take_messages()
        self._guarded(self._run_due)
        self._guarded(self._installation_step)
        self._guarded(self._follow_order)
        self._guarded(self._installation_step)
        self._guarded(self._follow_software)
        self._take_reports()
        self._guarded(self._take_care)
        self._reporter.announce(self.state(connected=True))
        self._reporter.send()
        return self.timers.wait_s(self._mono(), _WAIT_LIMIT_S)

    def stop(self) -> None:
        """End cleanly: a trial goes on uncounted at the next start, the last counts and the state are sent."""
        self.ports.inference.stop()
        for report in self.ports.inference.reports():
            if isinstance(report, Collected):
                self._reporter.count(report.models)
                self._life.labelling.count(report)
        self._installation.cancel()
        self.memory.update(clean_stop=True)
        self._reporter.telemetry(rss_bytes())
        self._life.labelling.save()
        self._reporter.send()
        self._reporter.farewell(self.state(connected=False))

    def state(self, *, connected: bool) -> State:
        """Return the device's state as the server sees it."""
        record = self.record
        in_trial = self._life.candidate_answers
        answering = record.candidate if in_trial else record.active
        factory = None if record.active else self._life.factory
        return State(
            v=SCHEMA,
            device=self._identity.device,
            profile=self._identity.profile,
            connected=connected,
            status=self.status,
            agent_version=self._software.agent,
            counter=record.counter,
            running=first_release(answering) or factory,
            also_running=tuple(member.release for member in answering[1:]),
            candidate=first_release(changed(record.trying or record.candidate, record.active)),
            previous=first_release(record.active if in_trial else record.previous),
            quarantined=tuple(
                dict.fromkeys((*(entry.bundle_sha256 for entry in record.quarantine), *self.software.bad))
            ),
            software=self.software.release,
            changed_at=record.changed_at,
        )

    def _take_reports(self) -> None:
        while reports := self.ports.inference.reports():
            for report in reports:
                if isinstance(report, Unsure):
                    self._capturing.offer(report.captured, limit_bytes=self._settings.capture_bytes)
                    continue
                self._guarded(self._life.on_report, report)
                if not self.polling.began:  # applications come first: the worker is up, now the server is asked
                    self.polling.soon()

    def _take_care(self) -> None:
        for note in self._care.step():
            self._event(note.kind, note.cause, note.detail)

    def _take_messages(self) -> None:
        for message in self.ports.messenger.incoming():
            if isinstance(message, Watermark):
                self._reporter.stored(message)
            elif isinstance(message, Capabilities):
                self._reporter.understood(message)
            elif message.counter > self.record.counter:
                self.polling.soon()

    def _run_due(self) -> None:
        now = self._mono()
        self.timers.take("installation", now)  # it only ended the wait
        self.memory.save_due(now)
        self._life.run_due(now)
        if self.timers.take("telemetry", now):
            self._reporter.telemetry(rss_bytes() + self.ports.inference.rss_bytes())
            self._life.labelling.save()
            self._plan_telemetry()
        self._capturing.step()
        self.polling.start_if_due(self.record.counter)

    def _plan_telemetry(self) -> None:
        self.timers.set("telemetry", self._mono() + self._settings.telemetry_s / self._scale)

    # ------------------------------------------------------------------ orders

    def _finish_poll(self) -> None:
        outcome = self.polling.finish()
        if isinstance(outcome, TrustRefusedError):
            self._refuse_once(outcome.cause, outcome.message)
            if outcome.recall is not None and outcome.recall != self.record.recall:
                self._life.recalled(outcome.recall)
        elif outcome is not None:
            self._accept(outcome)

    def _accept(self, order: Order) -> None:
        """Keep to what an order says beside the set that it wants."""
        if order.counter > self.record.counter:
            self.memory.update(counter=order.counter, reported=())
            self._installation.forget_failures()
            self.software.forget_failures()
        if any(entry.bundle_sha256 in order.lift for entry in self.record.quarantine):
            self.memory.lift(order.lift)
        self.software.lift(order)
        if order.recall != self.record.recall:
            self._life.recalled(order.recall)
        for notice in order.notices:
            if self.memory.report_once(notice.cause if notice.kind == "clock-wrong" else f"{notice}"[:500]):
                self._event(notice.kind, notice.cause, notice.detail)
        if order.settings is not None and order.settings.text != self.record.settings:
            self._take_settings(order.settings)

    def _take_settings(self, signed: SignedSettings) -> None:
        """Put a verified file of settings in force, and keep it over restarts."""
        try:
            read_remote_settings(signed.text.encode())
        except TrustError as error:
            self._refuse_once("settings", error.message)
            return
        self.memory.update(settings=signed.text)
        self._use_settings()
        self._event("settings-changed", "signed", f"{signed.name} is in force")

    def _use_settings(self) -> None:
        """Let the device's own settings hold, and over them the few that were signed."""
        remote = read_remote_settings(self.record.settings.encode()) if self.record.settings else None
        self._settings = merged(self._own_settings, remote)
        self.polling.every(self._settings.poll_s / self._scale)
        self._life.compare(self._settings.compare_share)

    def _refuse_once(self, cause: str, message: str, release: RunningRelease | None = None) -> None:
        if self.memory.report_once(f"{cause}|{message}"[:500]):
            self._event("update-refused", cause, message, release=release)

    def _follow_order(self) -> None:
        order = self.polling.order
        if order is None:
            return
        action = decide(self.status, self.record, order, self._software)
        if action == "refuse-quarantined" and order.counter > self.record.order_counter:
            # The order that led to the quarantine has been answered by that.
            self._refuse_once("quarantined", f"order {order.counter}: the bundle is in quarantine", _first(order))
        elif action == "refuse-recalled":
            why = next(filter(None, (self.record.recall.forbids(member.release) for member in order.members)), "")
            self._refuse_once("recalled", f"order {order.counter}: {why}", _first(order))
        elif action == "withdraw" and self.status in PREPARING:
            self._installation.cancel()
            self.memory.move("order-withdrawn", candidate=(), progress={})
        elif action == "withdraw":
            self._life.superseded()
        elif action == "install" and self._installation.may_start(self._mono()) and not self.software.busy:
            self._install(order)

    def _follow_software(self) -> None:
        """Turn to the agent's own software when the order's models are settled and nothing is under way.

        A model that answered when this software started, and was left under it, is a reason to leave the software.
        """
        if self.software.on_trial:
            for member in self._began_with:
                if member not in self.record.active and self.record.quarantines(member.sha256, self._software):
                    self.software.lost_a_model(member.release)
        order = self.polling.order
        settled = order is not None and decide(self.status, self.record, order, self._software) != "install"
        self.software.step(order, free=settled and self.status in READY)

    def _install(self, order: Order) -> None:
        for member in changed(order.members, self.record.active):
            self._event("update-found", "ordered", release=member.release)
        self.memory.move("order-found", candidate=order.members, progress={}, order_counter=order.counter, fault=None)

    def _installation_step(self) -> None:
        """Advance downloading, verified, staged and admission by what the executor finished."""
        while (outcome := self._advance()) is not None:
            about = member_of(self.record.candidate, outcome.about)
            for kind, cause, detail in outcome.events:
                self._event(kind, cause, detail, release=about.release if about else None)
            if outcome.trigger == "admission-passed":
                self._life.admitted()
            elif outcome.trigger is not None:
                self._move_on(outcome.trigger, about if outcome.quarantine else None)
        at = self._installation.next_at(self.status)
        if at is not None:
            self.timers.set("installation", at)

    def _advance(self) -> Outcome | None:
        return self._installation.advance(self.status, self.record, self.polling.order, self._mono())

    def _move_on(self, trigger: Trigger, quarantined: Member | None) -> None:
        if quarantined is not None:
            self._life.quarantine(quarantined, "admission-refused")
        if step(self.status, trigger) == "idle":
            self.memory.move(trigger, candidate=(), progress={})
        else:
            self.memory.move(trigger)

    # ------------------------------------------------------------------ not falling over

    def _guarded(self, action: Callable[..., None], *arguments: Any) -> None:
        """Run one step; a trigger that the state does not know means rollback, other failures are logged."""
        try:
            action(*arguments)
        except LifecycleFaultError as error:
            _LOG.exception("the life cycle has a fault")
            self._life.fault(error)
        except EdgeFleetError as error:
            _LOG.warning("%s", error)

    def _mono(self) -> float:
        return self.ports.clock.monotonic()


def _first(order: Order) -> RunningRelease | None:
    return first_release(order.members)
