# SPDX-License-Identifier: Apache-2.0
"""One device's agent: carries out what the core decides, over its ports, from one thread that calls :meth:`tick`.

Rules that this module keeps:

1. A state is saved before its action is taken; a trial's attempt is taken off durably before each activation.
2. An event is stored before the state that it tells of, so that a power cut repeats an event and never loses one.
3. Whatever takes long (metadata, downloads, admission) runs on the executor; faults of the model are handled at once.
4. A trigger that the state does not know is a fault, and is answered by a rollback.
"""

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import msgspec

from device_agent.core.identity import Identity
from device_agent.core.lifecycle import LIVE, PREPARING, LifecycleFaultError, Trigger, step
from device_agent.core.orders import Order, decide
from device_agent.core.record import DeviceRecord, Fault, fresh_progress, quarantined, reported
from device_agent.core.recovery import recover
from device_agent.core.schedule import CRASH_LOOP_LIMIT, Backoff, jittered_s
from device_agent.core.serving import (
    SLOT_DAMAGE,
    Collected,
    Died,
    LoadFailed,
    ModelFaulted,
    ModelRef,
    Report,
    Serving,
    ServingPlan,
    Verified,
)
from device_agent.core.timers import Timers
from device_agent.core.trial import Verdict, activated, counted, elapsed, judge_death, judge_shadow, judge_trial
from device_agent.errors import DamagedStateError, TrustRefusedError
from device_agent.installation import Installation, Outcome
from device_agent.ports import Ports
from device_agent.process_bounds import rss_bytes
from device_agent.reporting import Reporter
from device_agent.settings import AgentSettings
from edgefleet.contracts.errors import EdgeFleetError, StorageError
from edgefleet.contracts.messages import DeviceStatus, Event, EventKind, RunningRelease, State, Watermark

_LOG = logging.getLogger("edgefleet.agent")
_COLLECT_S = 1.0
_SIGN_OF_LIFE_S = 5.0
_PLAN_DEADLINE_S = 60.0
_CRASH_WINDOW_S = 600.0
_WAIT_LIMIT_S = 5.0
_POLL_RETRY = Backoff(first_s=2.0, cap_s=300.0)
_RESTART = Backoff(first_s=0.05, cap_s=30.0)
_REACTIVATE = Backoff(first_s=0.5, cap_s=60.0)
_SAVE_RETRY_S = 2.0


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
        self.record = DeviceRecord()
        self.wake: Callable[[], None] = lambda: None
        self._identity = identity
        self._settings = settings
        self._version = agent_version
        self._scale = time_scale
        self._factory = factory
        self._reporter = Reporter(ports.outbox, ports.messenger, ports.clock)
        self._installation = Installation(ports, identity.profile, lambda: self.wake())
        self._timers = Timers()
        self._order: Order | None = None
        self._checking: Future[Order] | None = None
        self._poll_failures = 0
        self._plan = ServingPlan(number=0)
        self._in_force = 0
        self._candidate_live = False
        self._failures_of_worker = 0
        self._last_death: float | None = None
        self._crashes: deque[float] = deque(maxlen=CRASH_LOOP_LIMIT)
        self._first_sign: float | None = None
        self._counted_at = 0.0
        self._unsaved = False

    # ------------------------------------------------------------------ life of the agent

    @property
    def status(self) -> DeviceStatus:
        """The state of the life cycle."""
        return self.record.status  # type: ignore[return-value]  # recover() let only known states in

    def start(self) -> None:
        """Load what is remembered, account for how the last run ended, and start to serve."""
        now = self.ports.clock.wall()
        recovery = recover(self._load(), boot_id=self.ports.boot_id, now=now)
        self._save(recovery.record)
        self._event("agent-started", "clean-start" if recovery.death == "clean" else "unclean-start")
        fault = recovery.record.fault
        if recovery.status == "rolling-back" and fault is not None and fault.release is not None:
            self._event("quarantined", fault.cause, fault.detail, release=fault.release)
        self.ports.inference.start()
        if recovery.status == "rolling-back":
            self._go_back()
        else:
            self._serve(with_candidate=False)
        if recovery.status in LIVE:
            self._timers.set("activate", 0.0)
        self._timers.set("poll", 0.0)
        self._timers.set("telemetry", self._mono() + self._settings.telemetry_s / self._scale)

    def tick(self) -> float:
        """Do what is due, and return the seconds until something will be (less, if :attr:`wake` is called)."""
        self._take_reports()
        self._guarded(self._finish_check)
        self._guarded(self._installation_step)
        for message in self.ports.messenger.incoming():
            if isinstance(message, Watermark):
                self._reporter.stored(message)
            elif message.counter > self.record.counter:
                self._timers.sooner("poll", self._mono())
        self._guarded(self._due)
        self._guarded(self._follow_order)
        self._guarded(self._installation_step)
        self._take_reports()
        self._reporter.announce(self.state(connected=True))
        self._reporter.send()
        return self._timers.wait_s(self._mono(), _WAIT_LIMIT_S)

    def _take_reports(self) -> None:
        while reports := self.ports.inference.reports():
            for report in reports:
                self._guarded(self._on_report, report)

    def stop(self) -> None:
        """End cleanly: a trial goes on uncounted at the next start, and the server is told."""
        self.ports.inference.stop()
        self._installation.cancel()
        self._save(msgspec.structs.replace(self.record, clean_stop=True))
        self.ports.messenger.close(self.state(connected=False))

    def state(self, *, connected: bool) -> State:
        """Return the device's state as the server sees it."""
        record, status = self.record, self.status
        factory = self._factory.release if self._factory and record.active is None else None
        in_trial = status == "trial" and self._candidate_live
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

    def poll_now(self) -> None:
        """Ask the director at the next tick."""
        self._timers.sooner("poll", self._mono())
        self.wake()

    # ------------------------------------------------------------------ what is due

    def _due(self) -> None:
        now = self._mono()
        self._timers.take("installation", now)  # it only ended the wait
        if self._timers.take("save", now) and self._unsaved:
            self._save(self.record)
        if self._timers.take("restart", now):
            self.ports.inference.start()
            self._serve(with_candidate=False)
        if self._timers.take("activate", now) and self.status in LIVE:
            if self._timers.is_set("restart"):
                self._timers.set("activate", now + _SAVE_RETRY_S)
            else:
                self._activate()
        if self._timers.take("collect", now):
            self._collect()
        if self._timers.take("watchdog", now):
            self.ports.inference.kill("did not answer in time")
        if self._timers.take("telemetry", now):
            self._reporter.telemetry(rss_bytes() + self.ports.inference.rss_bytes())
            self._timers.set("telemetry", now + self._settings.telemetry_s / self._scale)
        if self._timers.take("poll", now) and self._checking is None:
            self._checking = self.ports.executor.submit(self.ports.trust.check, self.record.counter)
            self._checking.add_done_callback(lambda _: self.wake())

    def _collect(self) -> None:
        self.ports.inference.collect()
        self._timers.cancel("collect")
        self._timers.sooner("watchdog", self._mono() + self._settings.watchdog_s)

    # ------------------------------------------------------------------ orders

    def _finish_check(self) -> None:
        if self._checking is None or not self._checking.done():
            return
        done, self._checking = self._checking, None
        retry_s = jittered_s(self._settings.poll_s / self._scale, self.ports.random())
        try:
            self._take_order(done.result())
            self._poll_failures = 0
        except TrustRefusedError as error:
            self._order = None
            self._refuse_once(error.cause, error.message)
        except EdgeFleetError as error:
            self._poll_failures += 1
            _LOG.warning("%s", error)
            retry_s = min(retry_s, _POLL_RETRY.delay_s(self._poll_failures, self.ports.random()))
        self._timers.sooner("poll", self._mono() + retry_s)

    def _take_order(self, order: Order) -> None:
        if order.counter > self.record.counter:
            self._save(msgspec.structs.replace(self.record, counter=order.counter, reported=()))
            self._installation.forget_failures()
        self._order = order

    def _refuse_once(self, cause: str, message: str, release: RunningRelease | None = None) -> None:
        key = f"{cause}|{message}"[:500]
        if key not in self.record.reported:
            self._event("update-refused", cause, message, release=release)
            self._save(reported(self.record, key))

    def _follow_order(self) -> None:
        if self._order is None:
            return
        action = decide(self.status, self.record, self._order)
        if action == "refuse-quarantined":
            self._refuse_quarantined(self._order)
        elif action == "withdraw":
            self._withdraw()
        elif action == "install" and self._installation.may_start(self._mono()):
            self._install(self._order)

    def _refuse_quarantined(self, order: Order) -> None:
        """Say so once an order; the order that led to the quarantine has been answered by that."""
        if order.counter > self.record.order_counter:
            self._refuse_once("quarantined", f"order {order.counter}: the bundle is in quarantine", order.release)

    def _withdraw(self) -> None:
        if self.status in PREPARING:
            self._installation.cancel()
            self._move("order-withdrawn", candidate=None)
        else:
            self._first_sign = None
            self._leave_candidate("order-withdrawn", Verdict("fail", "ordered", "the director ordered another release"))

    def _install(self, order: Order) -> None:
        assert order.release is not None  # noqa: S101  decide() installs only what is given
        self._event("update-found", "ordered", release=order.release)
        self._move(
            "order-found",
            candidate=order.release,
            order_counter=order.counter,
            policy=order.policy,
            compat_hash=order.compat_hash,
            fault=None,
        )

    # ------------------------------------------------------------------ installation

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
            self._timers.set("installation", at)

    def _advance(self) -> Outcome | None:
        return self._installation.advance(self.status, self.record, self._order, self._mono())

    def _move_on(self, trigger: Trigger, *, quarantine: bool) -> None:
        candidate = self.record.candidate
        if quarantine and candidate is not None:
            self._quarantine(candidate)
            self._event("quarantined", "admission-refused", release=candidate)
        if step(self.status, trigger) == "idle":
            self._move(trigger, candidate=None)
        else:
            self._move(trigger)

    def _admitted(self) -> None:
        progress = fresh_progress(self.record.policy)
        if self.record.active is None:
            self._event("trial-started", "first-release", release=self.record.candidate)
            self._move("admission-passed-first", progress=progress)
        else:
            self._event("shadow-started", "admission-passed", release=self.record.candidate)
            self._move("admission-passed", progress=progress)
        self._activate()

    # ------------------------------------------------------------------ shadow and trial

    def _activate(self) -> None:
        """Take an attempt off, durably, and then let the worker load the candidate."""
        self._save(msgspec.structs.replace(self.record, progress=activated(self.record.progress)))
        if self._unsaved:
            self._timers.set("activate", self._mono() + _SAVE_RETRY_S)
            return
        self._counted_at = self._mono()
        self._serve(with_candidate=True)

    def _on_collected(self, collected: Collected) -> None:
        self._timers.cancel("watchdog")
        self._reporter.count(collected.models)
        live = self.status in LIVE
        self._timers.sooner("collect", self._mono() + (_COLLECT_S if live else _SIGN_OF_LIFE_S))
        if not live or self.record.candidate is None or not self._candidate_live:
            return
        self._progress(collected, self.record.candidate)
        self._judge()

    def _progress(self, collected: Collected, candidate: RunningRelease) -> None:
        now = self._mono()
        progress = elapsed(self.record.progress, (now - self._counted_at) * self._scale)
        self._counted_at = now
        for window in collected.models:
            if window.release == candidate and window.role == self.status:
                progress = counted(progress, window)
        self._save(msgspec.structs.replace(self.record, progress=progress))

    def _judge(self) -> None:
        record = self.record
        if self.status == "shadow":
            verdict = judge_shadow(record.progress, record.policy.shadow, record.policy.trial)
        else:
            verdict = judge_trial(record.progress, record.policy.trial)
        if verdict.kind == "fail":
            self._leave_candidate("candidate-failed", verdict)
        elif verdict.kind == "pass" and self.status == "shadow":
            self._event("trial-started", "shadow-passed", _summary(record), release=record.candidate)
            self._move("shadow-passed", progress=fresh_progress(record.policy))
            self._activate()
        elif verdict.kind == "pass" and not self._unsaved:
            self._commit()

    def _commit(self) -> None:
        record = self.record
        assert record.candidate is not None  # noqa: S101  a trial has a candidate
        self.ports.slots.mark_good(record.candidate, counter=record.order_counter, committed_at=self.ports.clock.wall())
        self._event("committed", "trial-passed", _summary(record), release=record.candidate)
        self._move("trial-passed", active=record.candidate, previous=record.active, candidate=None)
        self._serve(with_candidate=False)
        self._settle()

    def _settle(self) -> None:
        self._move("settled")
        self._keep_slots()

    # ------------------------------------------------------------------ going back

    def _leave_candidate(self, trigger: Trigger, verdict: Verdict) -> None:
        """Go back from the candidate: quarantined where it failed, not where another order came."""
        candidate = self.record.candidate
        fault = Fault(
            cause=verdict.cause,
            detail=verdict.detail[:1000],
            release=candidate,
            at=self._first_sign or self.ports.clock.wall(),
        )
        if candidate is not None and trigger == "candidate-failed" and verdict.cause not in SLOT_DAMAGE:
            self._quarantine(candidate)
            self._event("quarantined", verdict.cause, verdict.detail, release=candidate)
        self._move(trigger, candidate=None, fault=fault)
        self._go_back()

    def _active_failed(self, cause: str, detail: str) -> None:
        """Go back from the committed release to the one before."""
        failed = self.record.active
        if failed is None:
            return
        self._installation.cancel()
        fault = Fault(cause=cause, detail=detail[:1000], release=failed, at=self._first_sign or self.ports.clock.wall())
        if cause not in SLOT_DAMAGE:
            self._quarantine(failed)
            self._event("quarantined", cause, detail, release=failed)
        self._move("active-failed", active=self.record.previous, previous=None, candidate=None, fault=fault)
        self._go_back()

    def _quarantine(self, release: RunningRelease) -> None:
        try:
            self.ports.slots.mark_bad(release.bundle_sha256)
        except StorageError as error:  # the record says it too
            _LOG.warning("%s", error)
        self._save(quarantined(self.record, release.bundle_sha256))

    def _go_back(self) -> None:
        self._first_sign = None
        self._timers.cancel("activate")
        self._serve(with_candidate=False)
        if self.record.active is None:
            self._event_of_fault("rolled-back", "there is no release to go back to")
            self._enter_safe_mode("nothing-to-serve")

    def _previous_serves(self) -> None:
        self._event_of_fault("rolled-back", "")
        self._move("previous-serving")
        self._verify_previous()

    def _verify_previous(self) -> None:
        if self.record.active is not None:
            self.ports.inference.verify(self._ref(self.record.active))

    def _on_verified(self, verified: Verified) -> None:
        if self.status != "verify-previous":
            return
        if not verified.passed:
            self._previous_failed(verified.cause, verified.detail)
            return
        self._event_of_fault("rollback-verified", verified.detail, release=self.record.active)
        self._move("previous-verified", fault=None)
        self._keep_slots()

    def _previous_failed(self, cause: str, detail: str) -> None:
        if self.record.active is not None and cause not in SLOT_DAMAGE:
            self._quarantine(self.record.active)
            self._event("quarantined", cause, detail, release=self.record.active)
        self._enter_safe_mode("previous-failed")

    def _enter_safe_mode(self, trigger: Trigger) -> None:
        what = "the factory model answers" if self._factory else "no model answers"
        fault = self.record.fault
        self._event(
            "safe-mode", fault.cause if fault else "no-good-model", what, release=fault.release if fault else None
        )
        self._move(trigger, active=None, previous=None)
        self._serve(with_candidate=False)

    # ------------------------------------------------------------------ the worker

    def _on_report(self, report: Report) -> None:
        if isinstance(report, Serving):
            self._on_serving(report)
        elif isinstance(report, Collected):
            self._on_collected(report)
        elif isinstance(report, ModelFaulted):
            self._first_sign = self._first_sign or self.ports.clock.wall()
            self._collect()
        elif isinstance(report, Verified):
            self._on_verified(report)
        elif isinstance(report, LoadFailed):
            self._on_load_failed(report)
        else:
            self._on_died(report)

    def _on_serving(self, report: Serving) -> None:
        self._in_force = report.number
        if report.number != self._plan.number:
            return
        self._timers.cancel("watchdog")
        self._timers.sooner("collect", self._mono() + (_COLLECT_S if self.status in LIVE else _SIGN_OF_LIFE_S))
        if self.status == "rolling-back":
            self._previous_serves()
        elif self.status == "verify-previous":
            self._verify_previous()  # the worker that was asked before has died
        elif self.status == "committed":
            self._settle()

    def _on_load_failed(self, report: LoadFailed) -> None:
        self._timers.cancel("watchdog")
        record = self.record
        if report.number != self._plan.number:
            return
        self._first_sign = self._first_sign or self.ports.clock.wall()
        if record.candidate is not None and report.bundle_sha256 == record.candidate.bundle_sha256:
            self._leave_candidate("candidate-failed", Verdict("fail", report.cause, report.detail))
        elif self.status in ("rolling-back", "verify-previous"):
            self._previous_failed(report.cause, report.detail)
        elif self.status in LIVE:
            self._lose_fallback(report)
        elif record.active is not None:
            self._active_failed(report.cause, report.detail)
        else:
            self._factory = None  # it does not load either
            self._serve(with_candidate=False)

    def _lose_fallback(self, report: LoadFailed) -> None:
        """The good release does not load any more while another one is on trial: the trial goes on without it."""
        if self.record.active is not None and report.cause not in SLOT_DAMAGE:
            self._quarantine(self.record.active)
            self._event("quarantined", report.cause, report.detail, release=self.record.active)
        self._save(msgspec.structs.replace(self.record, active=None))
        if self.status == "shadow":
            self._move("shadow-passed", progress=fresh_progress(self.record.policy))
        self._timers.set("activate", self._mono())

    def _on_died(self, report: Died) -> None:
        now = self._mono()
        with_candidate, self._candidate_live = self._candidate_live, False
        for name in ("watchdog", "collect"):
            self._timers.cancel(name)
        self._reporter.restarts += 1
        self._failures_of_worker = self._failures_of_worker + 1 if self._recently_died(now) else 1
        self._timers.set("restart", now + _RESTART.delay_s(self._failures_of_worker, self.ports.random()))
        self._event("worker-restarted", report.kind, report.detail, release=self.state(connected=True).running)
        if self.status in LIVE:
            if with_candidate:
                self._candidate_died(report)
        elif report.kind == "crash":
            self._count_crash(now, report)

    def _recently_died(self, now: float) -> bool:
        before, self._last_death = self._last_death, now
        return before is not None and now - before < 2.0 * _RESTART.cap_s

    def _candidate_died(self, report: Died) -> None:
        progress, verdict = judge_death(self.record.progress, report.kind)
        self._save(msgspec.structs.replace(self.record, progress=progress))
        if verdict.kind == "fail":
            self._leave_candidate("candidate-failed", verdict._replace(detail=f"{verdict.detail}: {report.detail}"))
            return
        deaths = self.record.policy.trial.crash_limit + 1 - progress.attempts_left
        self._timers.set("activate", self._mono() + _REACTIVATE.delay_s(deaths, self.ports.random()))

    def _count_crash(self, now: float, report: Died) -> None:
        self._crashes.append(now)
        if len(self._crashes) < CRASH_LOOP_LIMIT or now - self._crashes[0] > _CRASH_WINDOW_S:
            return
        self._crashes.clear()
        if self.status in ("rolling-back", "verify-previous"):
            self._previous_failed("crash-loop", report.detail)
        elif self.record.active is not None:
            self._active_failed("crash-loop", report.detail)

    def _serve(self, *, with_candidate: bool) -> None:
        """Ask the worker for what should answer now; the candidate comes in only through an activation."""
        record = self.record
        self._candidate_live = with_candidate
        good = self._ref(record.active) if record.active else self._factory
        candidate = self._ref(record.candidate) if record.candidate and with_candidate else None
        number = self._plan.number + 1
        if candidate is None:
            self._plan = ServingPlan(number=number, primary=good)
        else:
            trial = self.status == "trial"
            companion = good if trial else candidate
            self._plan = ServingPlan(
                number=number,
                primary=candidate if trial else good,
                role="trial" if trial else "active",
                companion=companion,
                companion_role=("fallback" if trial else "shadow") if companion else None,
                share=self._settings.compare_share,
            )
        self.ports.inference.serve(self._plan)
        self._timers.set("watchdog", self._mono() + _PLAN_DEADLINE_S)

    def _ref(self, release: RunningRelease) -> ModelRef:
        return ModelRef(path=str(self.ports.slots.path(release.bundle_sha256)), release=release)

    # ------------------------------------------------------------------ memory

    def _load(self) -> DeviceRecord:
        try:
            record = self.ports.state.load()
        except DamagedStateError as error:
            return self._repair(error)
        return record or DeviceRecord()

    def _repair(self, error: DamagedStateError) -> DeviceRecord:
        """Set an unreadable state aside, and start over from the slots' own marks."""
        aside = self.ports.state.set_aside()
        good = self.ports.slots.last_good()
        detail = f"{error.message}; set aside as '{aside.name}'"
        self._reporter.event(Event(kind="state-repaired", cause="unreadable", detail=detail[:1000]))
        return DeviceRecord(
            active=good[0] if good else None, counter=good[1] if good else 0, quarantine=self.ports.slots.bad()
        )

    def _move(self, trigger: Trigger, **changes: Any) -> None:
        status = step(self.status, trigger)
        changes |= {"status": status, "changed_at": self.ports.clock.wall()}
        self._save(msgspec.structs.replace(self.record, **changes))

    def _save(self, record: DeviceRecord) -> None:
        """Save durably; where the disk refuses, go on with what is in memory and try again soon."""
        self.record = record
        try:
            self.ports.state.save(record)
            self._unsaved = False
        except StorageError as error:
            _LOG.warning("%s", error)
            self._unsaved = True
            self._timers.sooner("save", self._mono() + _SAVE_RETRY_S)

    def _keep_slots(self) -> None:
        kept = [r.bundle_sha256 for r in (self.record.active, self.record.previous, self.record.candidate) if r]
        self.ports.slots.keep_only(kept)

    def _event(
        self,
        kind: EventKind,
        cause: str,
        detail: str = "",
        *,
        release: RunningRelease | None = None,
        seconds: float | None = None,
    ) -> None:
        counter = self._order.counter if self._order else self.record.counter
        event = Event(kind=kind, cause=cause, detail=detail[:1000], release=release, counter=counter, seconds=seconds)
        self._reporter.event(event)

    def _event_of_fault(self, kind: EventKind, detail: str, release: RunningRelease | None = None) -> None:
        fault = self.record.fault or Fault(cause="unknown", at=self.ports.clock.wall())
        text = "; ".join(part for part in (fault.detail, detail) if part)
        seconds = max(self.ports.clock.wall() - fault.at, 0.0)
        self._event(kind, fault.cause, text, release=release or fault.release, seconds=seconds)

    def _guarded(self, action: Callable[..., None], *arguments: Any) -> None:
        """Run one step; a trigger that the state does not know means rollback, other failures are logged."""
        try:
            action(*arguments)
        except LifecycleFaultError as error:
            _LOG.exception("%s", error)
            self._fault(error)
        except EdgeFleetError as error:
            _LOG.warning("%s", error)

    def _fault(self, error: LifecycleFaultError) -> None:
        self._installation.cancel()
        fault = Fault(
            cause=error.code, detail=error.message[:1000], release=self.record.candidate, at=self.ports.clock.wall()
        )
        changed = msgspec.structs.replace(self.record, status="rolling-back", candidate=None, fault=fault)
        self._save(changed)
        self._go_back()

    def _mono(self) -> float:
        return self.ports.clock.monotonic()


def _summary(record: DeviceRecord) -> str:
    progress = record.progress
    return f"{progress.requests} requests, {progress.compared} compared, {progress.elapsed_s:.0f} s"
