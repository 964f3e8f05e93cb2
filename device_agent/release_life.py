# SPDX-License-Identifier: Apache-2.0
"""A release on the device from its activation on: shadow, trial, commit, and every way back.

What runs in the worker, what the worker reports, and what the life cycle makes of it.
"""

import logging
from collections.abc import Callable

from device_agent.chronicle import Chronicle
from device_agent.core.lifecycle import LIVE, LifecycleFaultError, Trigger
from device_agent.core.record import DeviceRecord, Fault, fresh_progress
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
from device_agent.memory import SAVE_RETRY_S, Memory
from device_agent.ports import Ports
from device_agent.reporting import Reporter
from device_agent.settings import AgentSettings
from device_agent.worker_watch import WorkerWatch
from edgefleet.contracts.messages import DeviceStatus, RunningRelease

_LOG = logging.getLogger("edgefleet.agent")
_REACTIVATE = Backoff(first_s=0.5, cap_s=60.0)
SUPERSEDED = Verdict("fail", "ordered", "the director ordered another release")


class ReleaseLife:
    """The active release and its candidate, as one device runs them.

    ``factory`` answers where there is no good release; ``drop_installation`` lets go of what is being prepared.
    """

    def __init__(
        self,
        ports: Ports,
        settings: AgentSettings,
        timers: Timers,
        memory: Memory,
        reporter: Reporter,
        *,
        time_scale: float,
        factory: ModelRef | None,
        drop_installation: Callable[[], None],
    ) -> None:
        self.factory = factory
        self.worker = WorkerWatch(ports, timers, watchdog_s=settings.watchdog_s)
        self.chronicle = Chronicle(reporter, memory, ports.clock)
        self._ports = ports
        self._share = settings.compare_share
        self._timers = timers
        self._memory = memory
        self._reporter = reporter
        self._scale = time_scale
        self._drop_installation = drop_installation
        self._first_sign: float | None = None
        self._counted_at = 0.0

    @property
    def candidate_answers(self) -> bool:
        """Tell whether a candidate on trial answers just now."""
        return self._status == "trial" and self.worker.candidate_live

    def start(self, status: DeviceStatus) -> None:
        """Start the worker, and go on in the state that a restart resumes."""
        self._ports.inference.start()
        if status == "rolling-back":
            self._go_back()
        else:
            self.serve()
        if status in LIVE:
            self._timers.set("activate", 0.0)

    def run_due(self, now: float) -> None:
        """Keep the worker at work, and activate a candidate whose time has come."""
        if self.worker.run_due(now):
            self.serve()
        if self._timers.take("activate", now) and self._status in LIVE:
            self.activate()

    def admitted(self) -> None:
        """Begin the shadow of an admitted candidate; where nothing runs yet, its trial."""
        record = self._record
        progress = fresh_progress(record.policy)
        if record.active is None:
            self.chronicle.event("trial-started", "first-release", release=record.candidate)
            self._memory.move("admission-passed-first", progress=progress)
        else:
            self.chronicle.event("shadow-started", "admission-passed", release=record.candidate)
            self._memory.move("admission-passed", progress=progress)
        self.activate()

    def superseded(self) -> None:
        """Go back from a candidate because another release was ordered."""
        self._first_sign = None
        self._leave_candidate("order-withdrawn", SUPERSEDED)

    def fault(self, error: LifecycleFaultError) -> None:
        """Answer a trigger that the state did not know: go back."""
        self._drop_installation()
        fault = self._fault_of(self._record.candidate, error.code, error.message)
        self._memory.update(status="rolling-back", candidate=None, fault=fault)
        self._go_back()

    # ------------------------------------------------------------------ shadow and trial

    def activate(self) -> None:
        """Take an attempt off, durably, and then let the worker load the candidate."""
        if not self.worker.restarting:
            self._memory.update(progress=activated(self._record.progress))
        if self.worker.restarting or self._memory.unsaved:
            self._timers.set("activate", self._ports.clock.monotonic() + SAVE_RETRY_S)
            return
        self._counted_at = self._ports.clock.monotonic()
        self.serve(with_candidate=True)

    def _on_collected(self, collected: Collected) -> None:
        live = self._status in LIVE
        self.worker.collected(live=live)
        self._reporter.count(collected.models)
        if not live or not self.worker.candidate_live:
            return
        now = self._ports.clock.monotonic()
        progress = elapsed(self._record.progress, (now - self._counted_at) * self._scale)
        self._counted_at = now
        for window in collected.models:
            if window.release == self._record.candidate and window.role == self._status:
                progress = counted(progress, window)
        self._memory.count(progress)
        self._judge()

    def _judge(self) -> None:
        record, in_shadow = self._record, self._status == "shadow"
        if in_shadow:
            verdict = judge_shadow(record.progress, record.policy.shadow, record.policy.trial)
        else:
            verdict = judge_trial(record.progress, record.policy.trial)
        if verdict.kind == "fail":
            self._leave_candidate("candidate-failed", verdict)
        elif verdict.kind == "pass" and in_shadow:
            self.chronicle.event("trial-started", "shadow-passed", _summary(record), release=record.candidate)
            self._memory.move("shadow-passed", progress=fresh_progress(record.policy))
            self.activate()
        elif verdict.kind == "pass" and record.candidate is not None and not self._memory.unsaved:
            self._commit(record.candidate)

    def _commit(self, candidate: RunningRelease) -> None:
        record = self._record
        self._ports.slots.mark_good(candidate, counter=record.order_counter, committed_at=self._ports.clock.wall())
        self.chronicle.event("committed", "trial-passed", _summary(record), release=candidate)
        self._memory.move("trial-passed", active=candidate, previous=record.active, candidate=None)
        self.serve()
        self._settle()

    def _settle(self) -> None:
        self._memory.move("settled")
        self._memory.keep_slots()

    # ------------------------------------------------------------------ going back

    def _leave_candidate(self, trigger: Trigger, verdict: Verdict) -> None:
        """Go back from the candidate: quarantined where it failed, not where another order came."""
        candidate = self._record.candidate
        fault = self._fault_of(candidate, verdict.cause, verdict.detail)
        if trigger == "candidate-failed":
            self.quarantine(candidate, verdict.cause, verdict.detail)
        self._memory.move(trigger, candidate=None, fault=fault)
        self._go_back()

    def _leave_active(self, cause: str, detail: str) -> None:
        """Go back from the committed release to the one before."""
        failed = self._record.active
        fault = self._fault_of(failed, cause, detail)
        self._drop_installation()
        self.quarantine(failed, cause, detail)
        self._memory.move("active-failed", active=self._record.previous, previous=None, candidate=None, fault=fault)
        self._go_back()

    def _fault_of(self, release: RunningRelease | None, cause: str, detail: str) -> Fault:
        at = self._first_sign or self._ports.clock.wall()
        return Fault(cause=cause, detail=detail[:1000], release=release, at=at)

    def quarantine(self, release: RunningRelease | None, cause: str, detail: str) -> None:
        """Never try a bundle again; where only its slot was damaged, it may be fetched again."""
        if release is not None and cause not in SLOT_DAMAGE:
            self._memory.quarantine(release)
            self.chronicle.event("quarantined", cause, detail, release=release)

    def _go_back(self) -> None:
        self._first_sign = None
        self._timers.cancel("activate")
        self.serve()
        if self._record.active is None:
            self.chronicle.of_fault("rolled-back", "there is no release to go back to")
            self._enter_safe_mode("nothing-to-serve")

    def _verify_previous(self) -> None:
        if self._record.active is not None:
            self.worker.verify(self._ref(self._record.active))

    def _on_verified(self, verified: Verified) -> None:
        self.worker.answered(live=False)
        if self._status != "verify-previous":
            return
        if not verified.passed:
            self._previous_failed(verified.cause, verified.detail)
            return
        self.chronicle.of_fault("rollback-verified", verified.detail, release=self._record.active)
        self._memory.move("previous-verified", fault=None)
        self._memory.keep_slots()

    def _previous_failed(self, cause: str, detail: str) -> None:
        self.quarantine(self._record.active, cause, detail)
        self._enter_safe_mode("previous-failed")

    def _enter_safe_mode(self, trigger: Trigger) -> None:
        fault = self._record.fault or Fault(cause="no-good-model")
        what = "the factory model answers" if self.factory else "no model answers"
        self.chronicle.event("safe-mode", fault.cause, what, release=fault.release)
        self._memory.move(trigger, active=None, previous=None)
        self.serve()

    # ------------------------------------------------------------------ the worker

    def on_report(self, report: Report) -> None:
        """Take one report of the worker."""
        if isinstance(report, Collected):
            self._on_collected(report)
        elif isinstance(report, Serving):
            self._on_serving(report)
        elif isinstance(report, ModelFaulted):
            self._first_sign = self._first_sign or self._ports.clock.wall()
            self.worker.collect()
        elif isinstance(report, Verified):
            self._on_verified(report)
        elif isinstance(report, LoadFailed):
            self._on_load_failed(report)
        else:
            self._on_died(report)

    def _on_serving(self, report: Serving) -> None:
        if report.number != self.worker.plan.number:
            return
        self.worker.answered(live=self._status in LIVE)
        if self._status == "rolling-back":
            self.chronicle.of_fault("rolled-back", "")
            self._memory.move("previous-serving")
            self._verify_previous()
        elif self._status == "verify-previous":
            self._verify_previous()  # the worker that was asked before has died
        elif self._status == "committed":
            self._settle()

    def _on_load_failed(self, report: LoadFailed) -> None:
        if report.number != self.worker.plan.number:
            return
        self.worker.answered(live=self._status in LIVE)
        self._first_sign = self._first_sign or self._ports.clock.wall()
        candidate = self._record.candidate
        if candidate is not None and report.bundle_sha256 == candidate.bundle_sha256:
            self._leave_candidate("candidate-failed", Verdict("fail", report.cause, report.detail))
        elif self._status in ("rolling-back", "verify-previous"):
            self._previous_failed(report.cause, report.detail)
        elif self._status in LIVE:
            self._lose_fallback(report)
        elif self._record.active is not None:
            self._leave_active(report.cause, report.detail)
        else:
            self.factory = None  # it does not load either
            self.serve()

    def _lose_fallback(self, report: LoadFailed) -> None:
        """The good release does not load any more while another one is judged: that goes on trial without it."""
        self.quarantine(self._record.active, report.cause, report.detail)
        self._memory.update(active=None)
        if self._status == "shadow":
            self._memory.move("shadow-passed", progress=fresh_progress(self._record.policy))
        self._timers.set("activate", self._ports.clock.monotonic())

    def _on_died(self, report: Died) -> None:
        with_candidate = self.worker.died()
        self._reporter.restarts += 1
        self.chronicle.event(
            "worker-restarted",
            report.kind,
            report.detail,
            release=self._record.candidate if with_candidate else self._record.active,
        )
        if self._status in LIVE and with_candidate:
            self._candidate_died(report)
        elif self._status not in LIVE and report.kind == "crash" and self.worker.crash_loop():
            self._loop_of_crashes(report.detail)

    def _candidate_died(self, report: Died) -> None:
        progress, verdict = judge_death(self._record.progress, report.kind)
        self._memory.update(progress=progress)
        if verdict.kind == "fail":
            self._leave_candidate("candidate-failed", verdict._replace(detail=f"{verdict.detail}: {report.detail}"))
            return
        deaths = self._record.policy.trial.crash_limit + 1 - progress.attempts_left
        self._timers.set("activate", self._ports.clock.monotonic() + _REACTIVATE.delay_s(deaths, self._ports.random()))

    def _loop_of_crashes(self, detail: str) -> None:
        if self._status in ("rolling-back", "verify-previous"):
            self._previous_failed("crash-loop", detail)
        elif self._record.active is not None:
            self._leave_active("crash-loop", detail)

    def serve(self, *, with_candidate: bool = False) -> None:
        """Ask the worker for what should answer now; the candidate comes in only through an activation."""
        record = self._record
        plan = plan_for(
            self.worker.plan.number + 1,
            good=self._ref(record.active) if record.active else self.factory,
            candidate=self._ref(record.candidate) if record.candidate and with_candidate else None,
            trial=self._status == "trial",
            share=self._share,
        )
        self.worker.serve(plan, candidate_live=with_candidate)

    def _ref(self, release: RunningRelease) -> ModelRef:
        return ModelRef(path=str(self._ports.slots.path(release.bundle_sha256)), release=release)

    # ------------------------------------------------------------------ shorthands

    @property
    def _record(self) -> DeviceRecord:
        return self._memory.record

    @property
    def _status(self) -> DeviceStatus:
        return self._memory.status


def _summary(record: DeviceRecord) -> str:
    progress = record.progress
    return f"{progress.requests} requests, {progress.compared} compared, {progress.elapsed_s:.0f} s"
