# SPDX-License-Identifier: Apache-2.0
"""The pure life cycle under every order of happenings, with the power cut between any two steps of a decision.

A small world stands for the disk (record, marks, told events) and for the worker (its plan). Decisions are carried
out on it as :data:`device_agent.core.life.decision.ORDER` says, and a crash forgets all but the disk.
"""

import contextlib

import msgspec
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from device_agent.core.life import happenings, recalls, way_back
from device_agent.core.life.decision import Situation
from device_agent.core.life.lifecycle import DEADLINES_S, LIVE, PREPARING, STATUSES, LifecycleFaultError, step
from device_agent.core.life.record import DeviceRecord, Software, lifted
from device_agent.core.life.recovery import newer_commit, recover
from device_agent.core.life.release_set import Member, hashes, same, set_of
from device_agent.core.orders.release_orders import Order, TargetFile, Wanted, decide
from device_agent.core.recall import Recall
from device_agent.core.serving import ModelRef, plan_for
from edgefleet.contracts.messages import ModelWindow, RunningRelease
from edgefleet.contracts.policy import DevicePolicy, ShadowRule, TrialRule

HERE = Software(agent="1.0.0", runtime="ai-edge-litert 2.3.0")
POLICY = DevicePolicy(shadow=ShadowRule(samples=2), trial=TrialRule(requests=3, minimum_s=1.0, unexplained_limit=1))
RELEASES = [
    RunningRelease(name=name, version=f"{number}.0.0", bundle_sha256=f"{ord(name[0]):x}{number}".ljust(64, "0"))
    for name in ("digits", "sounds")
    for number in (1, 2, 3)
]
FACTORY = Member(release=RunningRelease(name="digits", version="0.0.1", bundle_sha256="f" * 64))
sets = st.lists(st.sampled_from(RELEASES), min_size=0, max_size=2, unique_by=lambda release: release.name)
cuts = st.sampled_from([None, None, None, "marks", "events", "record", "effects"])


class PowerCutError(Exception):
    """The device went dark between two steps."""


class Device(RuleBasedStateMachine):
    """One device's disk and worker."""

    def __init__(self):
        super().__init__()
        self.disk = DeviceRecord()
        self.record = DeviceRecord()
        self.good = {}
        self.bad = set()
        self.counter = 0
        self.now = 0.0
        self.boot = 0
        self.order = Order(0)
        self.plan = plan_for(0, good=())
        self.candidate_live = False
        self.held = False
        self.factory = FACTORY
        self.start()

    # ---------------------------------------------------------------- the world

    def start(self):
        releases, counter = self.last_commit()
        remembered = newer_commit(self.disk, set_of(Member(release=r) for r in releases), counter)
        recovery = recover(remembered, boot_id=str(self.boot), now=self.now, software=HERE)
        self.record = self.disk = recovery.record
        self.candidate_live = False
        self.plan = plan_for(0, good=())
        self.factory = FACTORY
        self.carry_out(happenings.resumed(self.record, self.situation()), None)

    def last_commit(self):
        good = {release: counter for release, counter in self.good.items() if release.bundle_sha256 not in self.bad}
        highest = max(good.values(), default=0)
        return [release for release, counter in good.items() if counter == highest], highest

    def situation(self):
        return Situation(
            now=self.now,
            software=HERE,
            factory=self.factory,
            held="robot: moving" if self.held else "",
            candidate_live=self.candidate_live,
        )

    def carry_out(self, decision, cut):
        for mark in decision.marks:
            if mark.kind == "good":
                self.good[mark.release] = decision.record.order_counter
            else:
                self.bad.add(mark.release.bundle_sha256)
        self.cut_at("marks", cut)
        self.cut_at("events", cut)
        self.record = self.disk = decision.record
        self.cut_at("record", cut)
        for effect in decision.effects:
            self.do(effect)
        self.cut_at("effects", cut)

    def cut_at(self, place, cut):
        if cut == place:
            raise PowerCutError

    def do(self, effect):
        if effect == "serve":
            self.serve(live=False)
        elif effect == "serve-candidate":
            self.serve(live=True)
        elif effect == "activate":
            self.carry_out(happenings.activation(self.record, self.situation()), None)
        elif effect == "drop-factory":
            self.factory = None

    def serve(self, *, live):
        factory = way_back.factory_for(self.record, self.factory)
        good = [ref(member) for member in self.record.active] or ([ref(factory)] if factory else [])
        candidates = [ref(member) for member in self.record.trying] if live else []
        self.plan = plan_for(1, good=tuple(good), candidates=tuple(candidates), trial=self.record.status == "trial")
        self.candidate_live = live

    def happen(self, cut, rule_of_core, *arguments, **options):
        self.now += 1.0
        with contextlib.suppress(PowerCutError):
            self.carry_out(rule_of_core(self.record, self.situation(), *arguments, **options), cut)
            return
        self.record = self.disk
        self.boot += 1
        self.start()

    def move(self, trigger, **changes):
        self.record = self.disk = msgspec.structs.replace(
            self.record, status=step(self.record.status, trigger), **changes
        )

    # ---------------------------------------------------------------- what happens

    @initialize(wanted=sets)
    def begun(self, wanted):
        if wanted:
            self.installed(wanted, None, well=True)

    @rule(wanted=sets)
    def ordered(self, wanted):
        self.counter += 1
        self.order = Order(
            self.counter,
            tuple(Wanted(r, TargetFile("x", r.bundle_sha256, 1), POLICY) for r in wanted),
            recall=self.record.recall,
        )
        self.record = self.disk = msgspec.structs.replace(self.record, counter=self.counter)

    @rule(cut=cuts)
    def followed(self, cut):
        action = decide(self.record.status, self.record, self.order, HERE)
        if action == "install":
            changes = {"candidate": self.order.members, "progress": {}, "order_counter": self.order.counter}
            self.move("order-found", fault=None, **changes)
        elif action == "withdraw" and self.record.status in PREPARING:
            self.move("order-withdrawn", candidate=(), progress={})
        elif action == "withdraw":
            self.happen(cut, way_back.superseded)

    @precondition(lambda self: self.record.status in PREPARING)
    @rule(cut=cuts, passes=st.booleans())
    def prepared(self, cut, passes):
        status = self.record.status
        if status != "admission":
            trigger = {"downloading": "bundle-complete", "verified": "bundle-staged", "staged": "admission-begun"}
            self.move(trigger[status])
        elif passes:
            self.happen(cut, happenings.admitted)
        else:
            for member in self.record.trying[:1]:
                self.happen(None, way_back.refused, member, "admission-refused")
            self.move("admission-refused", candidate=(), progress={})

    @precondition(lambda self: self.record.status in ("idle", "safe-mode"))
    @rule(wanted=sets, cut=cuts, well=st.booleans())
    def installed(self, wanted, cut, well):
        """An order comes all the way through admission at once, or to its commit."""
        if well:
            self.recalled(None, [], stopped=False)
        self.ordered(wanted)
        self.followed(None)
        while self.record.status in PREPARING:
            self.prepared(cut if self.record.status == "admission" else None, passes=True)
            if cut is not None and self.record.status not in LIVE:
                return
        while well and self.record.status in LIVE and not self.held:
            self.worked_well(None)

    @precondition(lambda self: self.record.status in LIVE)
    @rule(cut=cuts)
    def worked_well(self, cut):
        """Every member of the candidate does what its policy asks for."""
        role = "trial" if self.record.status == "trial" else "shadow"
        windows = [
            ModelWindow(release=member.release, role=role, requests=3, compared=3) for member in self.record.trying
        ]
        self.happen(cut, happenings.collected, windows, 1.0)

    @precondition(lambda self: self.record.status in way_back.BACK)
    @rule(cut=cuts)
    def came_back(self, cut):
        self.happen(None, happenings.serving)
        self.happen(cut, happenings.proved, "8 parity vectors")

    @precondition(lambda self: self.record.status in LIVE)
    @rule(cut=cuts)
    def activation_due(self, cut):
        if not self.candidate_live:
            self.happen(cut, happenings.activation)

    @rule(cut=cuts, requests=st.integers(0, 3), non_finite=st.sampled_from([0, 0, 0, 1]), of=st.sampled_from(RELEASES))
    def collected(self, cut, requests, non_finite, of):
        window = ModelWindow(
            release=of,
            role="trial" if self.record.status == "trial" else "shadow",
            requests=requests,
            compared=requests,
            non_finite=non_finite,
        )
        self.happen(cut, happenings.collected, [window], 1.0)

    @rule(cut=cuts)
    def serving(self, cut):
        self.happen(cut, happenings.serving)

    @rule(cut=cuts)
    def proved(self, cut):
        self.happen(cut, happenings.proved, "8 parity vectors")

    @rule(cut=cuts, of=st.sampled_from(RELEASES))
    def not_proved(self, cut, of):
        self.happen(cut, happenings.not_proved, of.bundle_sha256, "parity-production", "differs")

    @rule(
        cut=cuts,
        of=st.sampled_from([*RELEASES, FACTORY.release]),
        cause=st.sampled_from(["runtime-failed", "bundle-invalid"]),
    )
    def load_failed(self, cut, of, cause):
        if any(
            of in (entry.primary.release, entry.companion and entry.companion.release) for entry in self.plan.models
        ):
            self.happen(cut, happenings.load_failed, of.bundle_sha256, cause, "it does not load")

    @rule(
        cut=cuts,
        kind=st.sampled_from(["crash", "unexplained"]),
        loop=st.booleans(),
        during=st.sampled_from(["", *(release.bundle_sha256 for release in RELEASES)]),
    )
    def worker_died(self, cut, kind, loop, during):
        loop = loop and (self.record.status not in LIVE or during in hashes(self.record.active))
        self.happen(cut, happenings.died, kind, "SIGSEGV", crash_loop=loop, during=during)
        if cut is None:
            self.serve(live=False)  # the next worker is told what is good, and the candidate has to be activated

    @rule(cut=cuts)
    def deadline(self, cut):
        if way_back.deadline_s(self.record) is not None:
            self.happen(cut, way_back.deadline_passed)

    @rule(
        cut=cuts,
        releases=st.lists(st.sampled_from(RELEASES), max_size=1),
        stopped=st.sampled_from([False] * 9 + [True]),
    )
    def recalled(self, cut, releases, stopped):
        recall = Recall(releases=tuple(release.bundle_sha256 for release in releases), stopped=stopped)
        self.order = self.order._replace(recall=recall)
        self.happen(cut, recalls.recalled, recall)
        if cut is not None:  # the next poll says it again
            self.happen(None, recalls.recalled, recall)

    @rule()
    def lifted(self):
        self.bad -= set(list(self.bad)[:1])
        self.record = self.disk = lifted(self.record, tuple(q.bundle_sha256 for q in self.record.quarantine[:1]))

    @rule(held=st.booleans())
    def held_off(self, held):
        self.held = held

    @rule(clean=st.booleans(), reboot=st.booleans())
    def restarted(self, clean, reboot):
        if clean:
            self.disk = msgspec.structs.replace(self.record, clean_stop=True)
        self.boot += reboot
        self.start()

    @rule(really=st.integers(0, 9))
    def lost_its_way(self, really):
        if really == 0:
            self.happen(None, way_back.broken, LifecycleFaultError("a defect", hint="report it"))

    # ---------------------------------------------------------------- what always holds

    @invariant()
    def the_state_is_known_and_goes_with_the_record(self):
        assert self.record.status in STATUSES
        assert bool(self.record.candidate) or self.record.status not in (*PREPARING, *LIVE)
        assert set(self.record.progress) <= {member.release.name for member in self.record.candidate}

    @invariant()
    def nothing_forbidden_is_served(self):
        for entry in self.plan.models:
            assert not self.record.recall.forbids(entry.primary.release)
            assert entry.companion is None or not self.record.recall.forbids(entry.companion.release)

    @invariant()
    def a_candidate_is_served_only_in_its_states_and_after_its_attempt_was_written_down(self):
        if self.candidate_live:
            assert self.disk.status in LIVE
            assert self.disk.trying or not self.disk.progress
            assert not any(self.disk.quarantines(member.sha256, HERE) for member in self.disk.trying)

    @invariant()
    def a_good_set_answers_or_the_device_says_that_there_is_none(self):
        if self.record.status == "safe-mode":
            assert self.record.active == ()
        if not self.candidate_live:
            good = hashes(self.record.active) or ({FACTORY.sha256} if self.factory else set())
            assert {entry.primary.release.bundle_sha256 for entry in self.plan.models} <= good

    @invariant()
    def a_way_back_ends_in_a_proof_or_in_safe_mode(self):
        if self.record.status in way_back.BACK:
            assert self.record.fault is not None
            assert self.record.active


def ref(member):
    return ModelRef(path=member.sha256, release=member.release)


Device.TestCase.settings = hypothesis_settings(max_examples=150, stateful_step_count=60, deadline=None)
TestDevice = Device.TestCase


def test_a_member_of_both_sets_that_does_not_load_any_more_ends_the_trial_and_is_not_activated_again():
    device = Device()
    device.installed([RELEASES[0], RELEASES[3]], None, well=True)
    device.installed([RELEASES[0]], None, well=False)
    assert device.record.status == "trial"
    device.load_failed(None, RELEASES[0], "runtime-failed")
    assert [member.release for member in device.record.active] == [RELEASES[3]]
    assert (device.record.status, device.record.candidate, device.candidate_live) == ("rolling-back", (), False)
    assert device.record.quarantines(RELEASES[0].bundle_sha256, HERE)


def test_a_good_model_that_crashes_the_worker_again_and_again_is_left_while_its_successor_goes_on_trial():
    device = Device()
    device.installed([RELEASES[0]], None, well=True)
    device.installed([RELEASES[1]], None, well=False)
    assert device.record.status == "shadow"
    device.worker_died(None, "crash", loop=True, during=RELEASES[0].bundle_sha256)
    assert (device.record.status, device.record.active) == ("trial", ())
    assert device.record.quarantines(RELEASES[0].bundle_sha256, HERE)
    assert [member.release for member in device.record.candidate] == [RELEASES[1]]


def test_a_commit_that_was_told_survives_a_power_cut_at_every_step():
    for place in ("marks", "events", "record", "effects"):
        device = Device()
        device.ordered([RELEASES[0]])
        device.followed(None)
        while device.record.status in PREPARING:
            device.prepared(None, passes=True)
        assert device.record.status == "trial"
        device.collected(None, 2, 0, RELEASES[0])
        device.collected(place, 1, 0, RELEASES[0])
        assert device.record.status == "idle", place
        assert same(device.record.active, device.order.members), place


def test_a_faster_clock_shortens_what_the_policy_says_and_not_what_work_takes():
    device = Device()
    assert way_back.deadline_s(device.record, time_scale=3600.0) is None
    device.ordered([RELEASES[0]])
    device.followed(None)
    assert device.record.status == "downloading"
    assert way_back.deadline_s(device.record, time_scale=3600.0) == DEADLINES_S["downloading"]
    while device.record.status in PREPARING:
        device.prepared(None, passes=True)
    limit_s = POLICY.trial.limit_s
    assert way_back.deadline_s(device.record) == DEADLINES_S["trial"] + limit_s
    assert way_back.deadline_s(device.record, time_scale=3600.0) == DEADLINES_S["trial"] + limit_s / 3600.0
