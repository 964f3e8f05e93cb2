# SPDX-License-Identifier: Apache-2.0
"""Carrying out what the core decides about the releases on a device, and asking it when something happens.

The decisions are :mod:`device_agent.core.life.happenings`'s; here are the worker, the slots, the record and the events
that they are carried out on, in the order of :data:`device_agent.core.life.decision.ORDER`.
"""

import logging
from collections.abc import Callable
from typing import Concatenate, Literal, ParamSpec

import msgspec

from device_agent.chronicle import Chronicle
from device_agent.core.evidence.leak import Growth
from device_agent.core.evidence.usefulness import Usefulness, Useless
from device_agent.core.life import happenings, recalls, way_back
from device_agent.core.life.decision import Decision, Effect, Mark, Situation
from device_agent.core.life.lifecycle import LIVE, LifecycleFaultError
from device_agent.core.life.record import DeviceRecord, Software, member_of
from device_agent.core.life.release_set import Member
from device_agent.core.recall import Recall
from device_agent.core.reliance import all_fresh, heard
from device_agent.core.schedule import Backoff
from device_agent.core.serving import (
    AcceleratorLost,
    Collected,
    Declared,
    Died,
    LoadFailed,
    ModelFaulted,
    ModelRef,
    Report,
    Serving,
    ServingPlan,
    Verified,
    plan_for,
)
from device_agent.core.timers import Timers
from device_agent.labelling import Labelling
from device_agent.memory import SAVE_RETRY_S, Memory
from device_agent.ports import Ports
from device_agent.reporting import Reporter
from device_agent.settings import AgentSettings
from device_agent.worker_watch import WorkerWatch
from edgefleet.contracts.errors import StorageError
from edgefleet.contracts.messages import DeviceStatus, RunningRelease

_LOG = logging.getLogger("edgefleet.agent")
_REACTIVATE = Backoff(first_s=0.5, cap_s=60.0)
P = ParamSpec("P")


class ReleaseLife:
    """The good set and its candidate, as one device runs them.

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
        software: Software,
        time_scale: float,
        factory: ModelRef | None,
        drop_installation: Callable[[], None],
    ) -> None:
        self.worker = WorkerWatch(ports, timers, watchdog_s=settings.watchdog_s, time_scale=time_scale)
        self.chronicle = Chronicle(reporter, memory, ports.clock)
        self.software = software
        self._factory = factory
        self._ports = ports
        self._share = settings.compare_share
        self._swap: Literal["resident", "cold"] = settings.swap
        self._timers = timers
        self._memory = memory
        self._reporter = reporter
        self._scale = time_scale
        self._drop_installation = drop_installation
        self._first_sign: float | None = None
        self._counted_at = 0.0
        self._deadline: tuple[str, float] = ("", float("inf"))
        self._unproved: dict[str, str] = {}
        self._activations = 0
        self.labelling = Labelling(ports.labels)
        self._usefulness = Usefulness()
        self._growth = Growth()

    @property
    def factory(self) -> RunningRelease | None:
        """The factory model's release, where it may answer."""
        member = way_back.factory_for(self._record, self._factory_member())
        return member.release if member else None

    @property
    def candidate_answers(self) -> bool:
        """Tell whether a candidate on trial answers just now."""
        return self._status == "trial" and self.worker.candidate_live

    def start(self) -> None:
        """Start the worker, and go on in the state that a restart resumes."""
        self._ports.inference.start()
        self.decide(happenings.resumed)
        record = self._record
        if any(record.recall.forbids(member.release) for member in (*record.active, *record.candidate)):
            self.recalled(record.recall)  # an agent that knows no recalls was here in between

    def run_due(self, now: float) -> None:
        """Keep the worker at work, activate a candidate whose time has come, and leave states that take too long."""
        if self.worker.run_due(now):
            self._serve()
        if self._timers.take("activate", now) and self._status in LIVE:
            self._activate()
        self._keep_deadline(now)

    def decide(
        self,
        rule: Callable[Concatenate[DeviceRecord, Situation, P], Decision],
        *arguments: P.args,
        **options: P.kwargs,
    ) -> None:
        """Ask the core what a happening means, and carry that out."""
        self._carry_out(rule(self._record, self._situation(), *arguments, **options))

    def admitted(self) -> None:
        """Begin the shadow or the trial of an admitted candidate."""
        self.decide(happenings.admitted)

    def quarantine(self, member: Member, cause: str) -> None:
        """Never try a bundle again with this software; the event tells of it."""
        self.decide(way_back.refused, member, cause)

    def superseded(self) -> None:
        """Go back from a candidate because another set was ordered."""
        self.decide(way_back.superseded)

    def recalled(self, recall: Recall) -> None:
        """Keep to what a signed order forbids."""
        self.decide(recalls.recalled, recall)

    def compare(self, share: float) -> None:
        """Let both models see another share of the live inputs, from the next plan on."""
        self._share = share

    def fault(self, error: LifecycleFaultError) -> None:
        """Answer a trigger that the state did not know: go back."""
        self.decide(way_back.broken, error)

    # ------------------------------------------------------------------ the worker's reports

    def on_report(self, report: Report) -> None:
        """Take one report of the worker."""
        if isinstance(report, Collected):
            self._on_collected(report)
        elif isinstance(report, Serving):
            if report.number == self.worker.plan.number:
                self.worker.answered(live=self._status in LIVE, patience_s=report.patience_s)
                self.decide(happenings.serving)
        elif isinstance(report, ModelFaulted):
            self._sign_of_fault()
            self.worker.collect()
        elif isinstance(report, Verified):
            self._on_verified(report)
        elif isinstance(report, LoadFailed):
            if report.number == self.worker.plan.number:
                self.worker.answered(live=self._status in LIVE)
                self._sign_of_fault()
                self.decide(happenings.load_failed, report.bundle_sha256, report.cause, report.detail)
        elif isinstance(report, Declared):
            self._on_declared(report)
        elif isinstance(report, AcceleratorLost):
            member = member_of((*self._record.active, *self._record.candidate), report.bundle_sha256)
            release = member.release if member else None
            self.chronicle.event("accelerator-lost", "accelerator-lost", report.detail, release=release)
        elif isinstance(report, Died):
            self._on_died(report)

    def _on_collected(self, collected: Collected) -> None:
        self.worker.collected(live=self._status in LIVE, lanes=collected.lanes)
        self._reporter.count(collected.models)
        self.labelling.count(collected)
        now = self._ports.clock.monotonic()
        policy_seconds = (now - self._counted_at) * self._scale
        self._counted_at = now
        pairs, rss_bytes = collected.pairs, collected.rss_bytes
        useless = self._usefulness.look(collected.models)
        leaky = self._growth.look(collected.models, rss_bytes) if self._status not in LIVE else None
        self.decide(
            happenings.collected,
            collected.models,
            policy_seconds,
            pairs=pairs,
            unpaired=collected.unpaired,
            rss_bytes=rss_bytes,
        )
        if useless is not None:
            self.decide(happenings.useless, *useless)
        elif leaky is not None:
            self._leave_leaky(leaky)

    def _leave_leaky(self, leaky: Useless) -> None:
        """Go back from a committed model that leaks; where nothing else could answer, a new worker gives back all."""
        self.decide(happenings.useless, *leaky)
        if member_of(self._record.active, leaky.bundle_sha256) is not None:
            self._ports.inference.kill(f"leaked: {leaky.detail}", kind="unexplained", during=leaky.bundle_sha256)

    def _on_verified(self, verified: Verified) -> None:
        self.worker.answered(live=False)
        if not verified.passed:
            self._unproved.clear()
            self.decide(happenings.not_proved, verified.bundle_sha256, verified.cause, verified.detail)
        elif verified.bundle_sha256 in self._unproved:
            self._unproved[verified.bundle_sha256] = verified.detail
            if all(self._unproved.values()):
                self.decide(happenings.proved, "; ".join(self._unproved.values()))

    def _on_died(self, report: Died) -> None:
        situation = self._situation()  # the candidate was live until now
        self.worker.died()
        self._reporter.restarts += 1
        by_good = member_of(self._record.active, report.during) is not None
        loop = report.kind in ("crash", "hang") and (by_good or self._status not in LIVE) and self.worker.crash_loop()
        decision = happenings.died(
            self._record, situation, report.kind, report.detail, crash_loop=loop, during=report.during
        )
        self._carry_out(decision)

    def _on_declared(self, report: Declared) -> None:
        now = self._ports.clock.wall()
        if not all_fresh(self._record.reliances, report.declarations, now):
            self._memory.update(reliances=heard(self._record.reliances, report.declarations, now))

    def _sign_of_fault(self) -> None:
        if self._first_sign is None:
            self._first_sign = self._ports.clock.wall()

    # ------------------------------------------------------------------ carrying out

    def _carry_out(self, decision: Decision) -> None:
        for mark in decision.marks:
            self._note(mark, decision.record)
        for told in decision.events:
            self.chronicle.told(told)
        if decision.record.fault is not None or decision.record.status not in LIVE:
            self._first_sign = None
        if decision.record != self._record:
            self._remember(decision)
        for effect in decision.effects:
            self._do(effect)

    def _note(self, mark: Mark, record: DeviceRecord) -> None:
        if mark.kind == "good":
            counter, now = record.order_counter, self._ports.clock.wall()
            self._ports.slots.mark_good(mark.release, counter=counter, committed_at=now)
            return
        try:
            self._ports.slots.mark_bad(mark.release.bundle_sha256)
        except StorageError as error:  # the record says it too
            _LOG.warning("%s", error)

    def _remember(self, decision: Decision) -> None:
        if decision.effects or decision.marks or decision.events or decision.record.status != self._record.status:
            self._memory.save(decision.record)
        elif decision.record.progress == self._record.progress:
            self._memory.record = decision.record  # what is learnt of a good model is saved when something else is
        else:
            self._memory.count(decision.record.progress)

    def _do(self, effect: Effect) -> None:
        if effect == "serve":
            self._serve()
        elif effect == "serve-candidate":
            self._serve_candidate()
        elif effect == "verify":
            self._verify()
        elif effect == "keep-slots":
            self._memory.keep_slots()
        elif effect == "drop-installation":
            self._drop_installation()
        elif effect == "drop-factory":
            self._factory = None
        elif effect == "activate":
            self._activations = 0
            self._activate()
        elif effect == "activate-later":
            self._activations += 1
            delay_s = _REACTIVATE.delay_s(self._activations, self._ports.random())
            self._timers.set("activate", self._ports.clock.monotonic() + delay_s)
        else:
            self._timers.cancel("activate")

    def _activate(self) -> None:
        """Take an attempt off, durably, and then let the worker load the candidate."""
        if self.worker.restarting or self._memory.unsaved:
            self._timers.set("activate", self._ports.clock.monotonic() + SAVE_RETRY_S)
            return
        self.decide(happenings.activation)

    def _serve_candidate(self) -> None:
        if self._memory.unsaved:
            self.decide(happenings.not_activated)
            return
        self._counted_at = self._ports.clock.monotonic()
        self._serve(with_candidate=True)

    def _serve(self, *, with_candidate: bool = False) -> None:
        """Ask the worker for what should answer now; the candidate comes in only through an activation."""
        record = self._record
        factory = way_back.factory_for(record, self._factory_member())
        good = tuple(self._ref(member) for member in record.active)
        if not good and factory is not None and self._factory is not None:
            good = (self._factory,)
        plan = plan_for(
            self.worker.plan.number + 1,
            good=good,
            candidates=tuple(self._ref(member) for member in record.trying) if with_candidate else (),
            trial=self._status == "trial",
            share=self._share,
            swap=self._swap,
        )
        plan = msgspec.structs.replace(plan, earlier=self._earlier(plan), labelled=self.labelling.labelled)
        self._usefulness.forget()
        self._growth.forget()
        self.worker.serve(plan, candidate_live=with_candidate)

    def _earlier(self, plan: ServingPlan) -> tuple[ModelRef, ...]:
        """Return the releases that answered before and do not now: labels for their answers may still come."""
        now = {planned.primary.release.bundle_sha256 for planned in plan.models}
        members = {member.sha256: member for member in (*self._record.active, *self._record.previous)}
        return tuple(self._ref(member) for sha256, member in members.items() if sha256 not in now)

    def _verify(self) -> None:
        members = self._record.active
        self._unproved = dict.fromkeys((member.sha256 for member in members), "")
        for member in members:
            self.worker.verify(self._ref(member))

    def _keep_deadline(self, now: float) -> None:
        status, at = self._deadline
        if status != self._status:
            limit_s = way_back.deadline_s(self._record, time_scale=self._scale)
            at = float("inf") if limit_s is None else now + limit_s
            self._deadline = (self._status, at)
        if now >= at:
            self._deadline = ("", float("inf"))
            self.decide(way_back.deadline_passed)

    # ------------------------------------------------------------------ shorthands

    def _situation(self) -> Situation:
        return Situation(
            now=self._ports.clock.wall(),
            software=self.software,
            factory=self._factory_member(),
            held=self._ports.holds.reason(self._ports.clock.wall()),
            candidate_live=self.worker.candidate_live,
            first_sign=self._first_sign,
        )

    def _factory_member(self) -> Member | None:
        return Member(release=self._factory.release) if self._factory else None

    def _ref(self, member: Member) -> ModelRef:
        return ModelRef(path=str(self._ports.slots.path(member.sha256)), release=member.release)

    @property
    def _record(self) -> DeviceRecord:
        return self._memory.record

    @property
    def _status(self) -> DeviceStatus:
        return self._memory.status
