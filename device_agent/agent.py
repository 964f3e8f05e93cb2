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

from device_agent.core.identity import Identity
from device_agent.core.lifecycle import LIVE, PREPARING, LifecycleFaultError, Trigger, step
from device_agent.core.orders import Order, decide
from device_agent.core.record import DeviceRecord, Fault, fresh_progress
from device_agent.core.recovery import recover
from device_agent.core.schedule import Backoff
from device_agent.core.serving import (
    SLOT_DAMAGE,
    Collected,
    Died,
    LoadFailed,
    ModelFaulted,
    ModelRef,
    Report,
    Serving,
    Verified,
    plan_for,
)
from device_agent.core.timers import Timers
from device_agent.core.trial import Verdict, activated, counted, elapsed, judge_death, judge_shadow, judge_trial
from device_agent.errors import TrustRefusedError
from device_agent.installation import Installation, Outcome
from device_agent.memory import SAVE_RETRY_S, Memory
from device_agent.polling import Polling
from device_agent.ports import Ports
from device_agent.process_bounds import rss_bytes
from device_agent.reporting import Reporter
from device_agent.settings import AgentSettings
from device_agent.worker_watch import WorkerWatch
from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.messages import DeviceStatus, Event, EventKind, RunningRelease, State, Watermark

_LOG = logging.getLogger("edgefleet.agent")
_WAIT_LIMIT_S = 5.0
_REACTIVATE = Backoff(first_s=0.5, cap_s=60.0)
_SUPERSEDED = Verdict("fail", "ordered", "the director ordered another release")


class Agent:
    """The supervisor of one device. All methods are called from one thread, but ``wake`` may come from any."""

    def __init__(
        self,
        identity: Identity,
        settings: AgentSettings,
        ports: Ports,
        *,
        agent_version: str,
        time_scale: float = 1.0,
        factory: ModelRef | None = None,
    ) -> None:
        self.ports = ports
        self.timers = Timers()
        self.memory = Memory(ports, self.timers)
        self.polling = Polling(ports, self.timers, poll_s=settings.poll_s / time_scale, wake=lambda: self.wake())
        self.wake: Callable[[], None] = lambda: None
        self._identity = identity
        self._settings = settings
        self._version = agent_version
        self._scale = time_scale
        self._factory = factory
        self._reporter = Reporter(ports.outbox, ports.messenger, ports.clock)
        self._installation = Installation(ports, identity.profile, lambda: self.wake())
        self._worker = WorkerWatch(ports, self.timers, watchdog_s=settings.watchdog_s)
        self._first_sign: float | None = None
        self._counted_at = 0.0

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
        recovery = recover(remembered, boot_id=self.ports.boot_id, now=self.ports.clock.wall())
        self.memory.save(recovery.record)
        if repair:
            self._event("state-repaired", "unreadable", repair)
        self._event("agent-started", "clean-start" if recovery.death == "clean" else "unclean-start")
        fault = recovery.record.fault
        if recovery.status == "rolling-back" and fault is not None and fault.release is not None:
            self._event("quarantined", fault.cause, fault.detail, release=fault.release)
        self.ports.inference.start()
        if recovery.status == "rolling-back":
            self._go_back()
        else:
            self._serve()
        if recovery.status in LIVE:
            self.timers.set("activate", 0.0)
        self.polling.soon()
        self._plan_telemetry()

    def tick(self) -> float:
        """Do what is due, and return the seconds until something will be (less, if :attr:`wake` is called)."""
        self._take_reports()
        self._guarded(self._finish_poll)
        self._take_messages()
        self._guarded(self._run_due)
        self._guarded(self._installation_step)
        self._guarded(self._follow_order)
        self._guarded(self._installation_step)
        self._take_reports()
        self._reporter.announce(self.state(connected=True))
        self._reporter.send()
        return self.timers.wait_s(self._mono(), _WAIT_LIMIT_S)

    def stop(self) -> None:
        """End cleanly: a trial goes on uncounted at the next start, the last counts and the state are sent."""
        self.ports.inference.stop()
        for report in self.ports.inference.reports():
            if isinstance(report, Collected):
                self._reporter.count(report.models)
        self._installation.cancel()
        self.memory.update(clean_stop=True)
        self._reporter.telemetry(rss_bytes())
        self._reporter.send()
        self.ports.messenger.close(self.state(connected=False))

    def state(self, *, connected: bool) -> State:
        """Return the device's state as the server sees it."""
        record, status = self.record, self.status
        factory = self._factory.release if self._factory and record.active is None else None
        in_trial = status == "trial" and self._worker.candidate_live
        return State(
            v=1,
            device=self._identity.device,
            profile=self._identity.profile,
            connected=connected,
            status=status,
            agent_version=self._version,
            counter=record.counter,
            running=record.candidate if in_trial else record.active or factory,
            candidate=record.candidate,
            previous=record.active if in_trial else record.previous,
            quarantined=record.quarantine,
            changed_at=record.changed_at,
        )

    def _take_reports(self) -> None:
        while reports := self.ports.inference.reports():
            for report in reports:
                self._guarded(self._on_report, report)

    def _take_messages(self) -> None:
        for message in self.ports.messenger.incoming():
            if isinstance(message, Watermark):
                self._reporter.stored(message)
            elif message.counter > self.record.counter:
                self.polling.soon()

    def _run_due(self) -> None:
        now = self._mono()
        self.timers.take("installation", now)  # it only ended the wait
        if self.timers.take("save", now) and self.memory.unsaved:
            self.memory.save(self.record)
        if self._worker.run_due(now):
            self._serve()
        if self.timers.take("activate", now) and self.status in LIVE:
            self._activate()
        if self.timers.take("telemetry", now):
            self._reporter.telemetry(rss_bytes() + self.ports.inference.rss_bytes())
            self._plan_telemetry()
        self.polling.start_if_due(self.record.counter)

    def _plan_telemetry(self) -> None:
        self.timers.set("telemetry", self._mono() + self._settings.telemetry_s / self._scale)

    # ------------------------------------------------------------------ orders

    def _finish_poll(self) -> None:
        outcome = self.polling.finish()
        if isinstance(outcome, TrustRefusedError):
            self._refuse_once(outcome.cause, outcome.message)
        elif outcome is not None and outcome.counter > self.record.counter:
            self.memory.update(counter=outcome.counter, reported=())
            self._installation.forget_failures()

    def _refuse_once(self, cause: str, message: str, release: RunningRelease | None = None) -> None:
        if self.memory.report_once(f"{cause}|{message}"[:500]):
            self._event("update-refused", cause, message, release=release)

    def _follow_order(self) -> None:
        order = self.polling.order
        if order is None:
            return
        action = decide(self.status, self.record, order)
        if action == "refuse-quarantined" and order.counter > self.record.order_counter:
            # The order that led to the quarantine has been answered by that.
            self._refuse_once("quarantined", f"order {order.counter}: the bundle is in quarantine", order.release)
        elif action == "withdraw" and self.status in PREPARING:
            self._installation.cancel()
            self.memory.move("order-withdrawn", candidate=None)
        elif action == "withdraw":
            self._first_sign = None
            self._leave_candidate("order-withdrawn", _SUPERSEDED)
        elif action == "install" and self._installation.may_start(self._mono()):
            self._install(order)

    def _install(self, order: Order) -> None:
        self._event("update-found", "ordered", release=order.release)
        self.memory.move(
            "order-found",
            candidate=order.release,
            order_counter=order.counter,
            policy=order.policy,
            compat_hash=order.compat_hash,
            fault=None,
        )

    def _installation_step(self) -> None:
        """Advance downloading, verified, staged and admission by what the executor finished."""
        while (outcome := self._advance()) is not None:
            for kind, cause, detail in outcome.events:
                self._event(kind, cause, detail, release=self.record.candidate)
            if outcome.trigger == "admission-passed":
                self._admitted()
            elif outcome.trigger is not None:
                self._move_on(outcome.trigger, quarantine=outcome.quarantine)
        at = self._installation.next_at(self.status)
        if at is not None:
            self.timers.set("installation", at)

    def _advance(self) -> Outcome | None:
        return self._installation.advance(self.status, self.record, self.polling.order, self._mono())

    def _move_on(self, trigger: Trigger, *, quarantine: bool) -> None:
        if quarantine:
            self._quarantine(self.record.candidate, "admission-refused", "")
        if step(self.status, trigger) == "idle":
            self.memory.move(trigger, candidate=None)
        else:
            self.memory.move(trigger)

    def _admitted(self) -> None:
        progress = fresh_progress(self.record.policy)
        if self.record.active is None:
            self._event("trial-started", "first-release", release=self.record.candidate)
            self.memory.move("admission-passed-first", progress=progress)
        else:
            self._event("shadow-started", "admission-passed", release=self.record.candidate)
            self.memory.move("admission-passed", progress=progress)
        self._activate()

    # ------------------------------------------------------------------ shadow and trial

    def _activate(self) -> None:
        """Take an attempt off, durably, and then let the worker load the candidate."""
        if not self._worker.restarting:
            self.memory.progress(activated(self.record.progress))
        if self._worker.restarting or self.memory.unsaved:
            self.timers.set("activate", self._mono() + SAVE_RETRY_S)
            return
        self._counted_at = self._mono()
        self._serve(with_candidate=True)

    def _on_collected(self, collected: Collected) -> None:
        live = self.status in LIVE
        self._worker.collected(live=live)
        self._reporter.count(collected.models)
        if not live or not self._worker.candidate_live:
            return
        now = self._mono()
        progress = elapsed(self.record.progress, (now - self._counted_at) * self._scale)
        self._counted_at = now
        for window in collected.models:
            if window.release == self.record.candidate and window.role == self.status:
                progress = counted(progress, window)
        self.memory.progress(progress)
        self._judge()

    def _judge(self) -> None:
        record, in_shadow = self.record, self.status == "shadow"
        if in_shadow:
            verdict = judge_shadow(record.progress, record.policy.shadow, record.policy.trial)
        else:
            verdict = judge_trial(record.progress, record.policy.trial)
        if verdict.kind == "fail":
            self._leave_candidate("candidate-failed", verdict)
        elif verdict.kind == "pass" and in_shadow:
            self._event("trial-started", "shadow-passed", _summary(record), release=record.candidate)
            self.memory.move("shadow-passed", progress=fresh_progress(record.policy))
            self._activate()
        elif verdict.kind == "pass" and record.candidate is not None and not self.memory.unsaved:
            self._commit(record.candidate)

    def _commit(self, candidate: RunningRelease) -> None:
        record = self.record
        self.ports.slots.mark_good(candidate, counter=record.order_counter, committed_at=self.ports.clock.wall())
        self._event("committed", "trial-passed", _summary(record), release=candidate)
        self.memory.move("trial-passed", active=candidate, previous=record.active, candidate=None)
        self._serve()
        self._settle()

    def _settle(self) -> None:
        self.memory.move("settled")
        self.memory.keep_slots()

    # ------------------------------------------------------------------ going back

    def _leave_candidate(self, trigger: Trigger, verdict: Verdict) -> None:
        """Go back from the candidate: quarantined where it failed, not where another order came."""
        candidate = self.record.candidate
        fault = self._fault_of(candidate, verdict.cause, verdict.detail)
        if trigger == "candidate-failed":
            self._quarantine(candidate, verdict.cause, verdict.detail)
        self.memory.move(trigger, candidate=None, fault=fault)
        self._go_back()

    def _leave_active(self, cause: str, detail: str) -> None:
        """Go back from the committed release to the one before."""
        failed = self.record.active
        fault = self._fault_of(failed, cause, detail)
        self._installation.cancel()
        self._quarantine(failed, cause, detail)
        self.memory.move("active-failed", active=self.record.previous, previous=None, candidate=None, fault=fault)
        self._go_back()

    def _fault_of(self, release: RunningRelease | None, cause: str, detail: str) -> Fault:
        at = self._first_sign or self.ports.clock.wall()
        return Fault(cause=cause, detail=detail[:1000], release=release, at=at)

    def _quarantine(self, release: RunningRelease | None, cause: str, detail: str) -> None:
        """Never try a bundle again; where only its slot was damaged, it may be fetched again."""
        if release is not None and cause not in SLOT_DAMAGE:
            self.memory.quarantine(release)
            self._event("quarantined", cause, detail, release=release)

    def _go_back(self) -> None:
        self._first_sign = None
        self.timers.cancel("activate")
        self._serve()
        if self.record.active is None:
            self._event_of_fault("rolled-back", "there is no release to go back to")
            self._enter_safe_mode("nothing-to-serve")

    def _verify_previous(self) -> None:
        if self.record.active is not None:
            self._worker.verify(self._ref(self.record.active))

    def _on_verified(self, verified: Verified) -> None:
        self._worker.answered(live=False)
        if self.status != "verify-previous":
            return
        if not verified.passed:
            self._previous_failed(verified.cause, verified.detail)
            return
        self._event_of_fault("rollback-verified", verified.detail, release=self.record.active)
        self.memory.move("previous-verified", fault=None)
        self.memory.keep_slots()

    def _previous_failed(self, cause: str, detail: str) -> None:
        self._quarantine(self.record.active, cause, detail)
        self._enter_safe_mode("previous-failed")

    def _enter_safe_mode(self, trigger: Trigger) -> None:
        fault = self.record.fault or Fault(cause="no-good-model")
        what = "the factory model answers" if self._factory else "no model answers"
        self._event("safe-mode", fault.cause, what, release=fault.release)
        self.memory.move(trigger, active=None, previous=None)
        self._serve()

    # ------------------------------------------------------------------ the worker

    def _on_report(self, report: Report) -> None:
        if isinstance(report, Collected):
            self._on_collected(report)
        elif isinstance(report, Serving):
            self._on_serving(report)
        elif isinstance(report, ModelFaulted):
            self._first_sign = self._first_sign or self.ports.clock.wall()
            self._worker.collect()
        elif isinstance(report, Verified):
            self._on_verified(report)
        elif isinstance(report, LoadFailed):
            self._on_load_failed(report)
        else:
            self._on_died(report)

    def _on_serving(self, report: Serving) -> None:
        if report.number != self._worker.plan.number:
            return
        self._worker.answered(live=self.status in LIVE)
        if self.status == "rolling-back":
            self._event_of_fault("rolled-back", "")
            self.memory.move("previous-serving")
            self._verify_previous()
        elif self.status == "verify-previous":
            self._verify_previous()  # the worker that was asked before has died
        elif self.status == "committed":
            self._settle()

    def _on_load_failed(self, report: LoadFailed) -> None:
        if report.number != self._worker.plan.number:
            return
        self._worker.answered(live=self.status in LIVE)
        self._first_sign = self._first_sign or self.ports.clock.wall()
        candidate = self.record.candidate
        if candidate is not None and report.bundle_sha256 == candidate.bundle_sha256:
            self._leave_candidate("candidate-failed", Verdict("fail", report.cause, report.detail))
        elif self.status in ("rolling-back", "verify-previous"):
            self._previous_failed(report.cause, report.detail)
        elif self.status in LIVE:
            self._lose_fallback(report)
        elif self.record.active is not None:
            self._leave_active(report.cause, report.detail)
        else:
            self._factory = None  # it does not load either
            self._serve()

    def _lose_fallback(self, report: LoadFailed) -> None:
        """The good release does not load any more while another one is judged: that goes on trial without it."""
        self._quarantine(self.record.active, report.cause, report.detail)
        self.memory.update(active=None)
        if self.status == "shadow":
            self.memory.move("shadow-passed", progress=fresh_progress(self.record.policy))
        self.timers.set("activate", self._mono())

    def _on_died(self, report: Died) -> None:
        with_candidate = self._worker.died()
        self._reporter.restarts += 1
        self._event("worker-restarted", report.kind, report.detail, release=self.state(connected=True).running)
        if self.status in LIVE and with_candidate:
            self._candidate_died(report)
        elif self.status not in LIVE and report.kind == "crash" and self._worker.crash_loop():
            self._loop_of_crashes(report.detail)

    def _candidate_died(self, report: Died) -> None:
        progress, verdict = judge_death(self.record.progress, report.kind)
        self.memory.progress(progress)
        if verdict.kind == "fail":
            self._leave_candidate("candidate-failed", verdict._replace(detail=f"{verdict.detail}: {report.detail}"))
            return
        deaths = self.record.policy.trial.crash_limit + 1 - progress.attempts_left
        self.timers.set("activate", self._mono() + _REACTIVATE.delay_s(deaths, self.ports.random()))

    def _loop_of_crashes(self, detail: str) -> None:
        if self.status in ("rolling-back", "verify-previous"):
            self._previous_failed("crash-loop", detail)
        elif self.record.active is not None:
            self._leave_active("crash-loop", detail)

    def _serve(self, *, with_candidate: bool = False) -> None:
        """Ask the worker for what should answer now; the candidate comes in only through an activation."""
        record = self.record
        plan = plan_for(
            self._worker.plan.number + 1,
            good=self._ref(record.active) if record.active else self._factory,
            candidate=self._ref(record.candidate) if record.candidate and with_candidate else None,
            trial=self.status == "trial",
            share=self._settings.compare_share,
        )
        self._worker.serve(plan, candidate_live=with_candidate)

    def _ref(self, release: RunningRelease) -> ModelRef:
        return ModelRef(path=str(self.ports.slots.path(release.bundle_sha256)), release=release)

    # ------------------------------------------------------------------ telling, and not falling over

    def _event(
        self,
        kind: EventKind,
        cause: str,
        detail: str = "",
        *,
        release: RunningRelease | None = None,
        seconds: float | None = None,
    ) -> None:
        counter = self.polling.order.counter if self.polling.order else self.record.counter
        event = Event(kind=kind, cause=cause, detail=detail[:1000], release=release, counter=counter, seconds=seconds)
        self._reporter.event(event)

    def _event_of_fault(self, kind: EventKind, detail: str, release: RunningRelease | None = None) -> None:
        now = self.ports.clock.wall()
        fault = self.record.fault or Fault(cause="unknown", at=now)
        text = "; ".join(part for part in (fault.detail, detail) if part)
        self._event(kind, fault.cause, text, release=release or fault.release, seconds=max(now - fault.at, 0.0))

    def _guarded(self, action: Callable[..., None], *arguments: Any) -> None:
        """Run one step; a trigger that the state does not know means rollback, other failures are logged."""
        try:
            action(*arguments)
        except LifecycleFaultError as error:
            _LOG.exception("the life cycle has a fault")
            self._installation.cancel()
            fault = self._fault_of(self.record.candidate, error.code, error.message)
            self.memory.update(status="rolling-back", candidate=None, fault=fault)
            self._go_back()
        except EdgeFleetError as error:
            _LOG.warning("%s", error)

    def _mono(self) -> float:
        return self.ports.clock.monotonic()


def _summary(record: DeviceRecord) -> str:
    progress = record.progress
    return f"{progress.requests} requests, {progress.compared} compared, {progress.elapsed_s:.0f} s"
