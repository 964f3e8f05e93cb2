# SPDX-License-Identifier: Apache-2.0
"""The pure decisions: cohorts, the gate, the rollout's steps, watermarks, the audit chain."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefleet.contracts.bundle import open_bundle
from edgefleet.contracts.errors import ConflictError, PolicyError
from edgefleet.contracts.policy import GateRule, Policy, RolloutPolicy, WaveRule
from fleet_server.core.audit_chain import GENESIS, AuditEntry, entry_hash, first_broken
from fleet_server.core.rollouts.cohort import cap_at, cohort_order, devices_to_assign, draw_holdout, wave_size
from fleet_server.core.rollouts.gate import Figures, WaveEvidence, judge
from fleet_server.core.rollouts.rollout import DeviceEvidence, Rollout, carry_out, step
from fleet_server.core.telemetry.watermark import advance
from fleet_server.core.trust.release_rules import check_release

NAMES = st.lists(st.from_regex(r"[a-z][a-z0-9]{0,5}", fullmatch=True), unique=True, max_size=40)
POLICY = RolloutPolicy(
    holdout_percent=20.0,
    waves=(WaveRule(percent=10.0, minimum_s=60.0), WaveRule(percent=50.0, minimum_s=60.0), WaveRule(percent=100.0)),
    gate=GateRule(minimum_requests=10, failed_devices=0.1, failed_devices_grace=1, limit_s=600.0),
)
START = Rollout(id="r", name="digits", version="1.0.0", policy=POLICY, salt="s", holdout=frozenset(), created_at=0.0)


def evidence(**changed: Any) -> WaveEvidence:
    values = {
        "assigned": ("a", "b"),
        "failed": (),
        "exposed": ("a", "b"),
        "unsettled": (),
        "wave": Figures(requests=100, labelled=50, correct=48, compared=50, disagreed=1),
        "others": Figures(labelled=100, correct=96),
        "had_previous": 2,
        "remaining": 5,
        "elapsed_s": 100.0,
        "minimum_s": 60.0,
        "last_wave": False,
    }
    return WaveEvidence(**(values | changed))


@given(NAMES, st.text(max_size=8))
def test_a_cohort_order_is_stable_and_a_newcomer_changes_nobody_elses_place(names: list[str], salt: str) -> None:
    order = cohort_order(salt, names)
    assert sorted(order) == sorted(names)
    assert order == cohort_order(salt, reversed(names))
    joined = cohort_order(salt, [*names, "newcomer"])
    assert [name for name in joined if name != "newcomer"] == order


@given(NAMES, st.text(max_size=8), st.floats(0.0, 100.0))
def test_a_holdout_never_takes_everyone(names: list[str], salt: str, percent: float) -> None:
    holdout = draw_holdout(salt, names, percent)
    assert holdout <= set(names)
    assert len(holdout) < len(names) or not names
    assert len(holdout) <= len(names) * percent / 100.0


@given(st.integers(0, 1000), st.floats(0.0, 100.0))
def test_a_wave_is_never_larger_than_the_fleet_and_never_rounds_a_device_away(covered: int, percent: float) -> None:
    size = wave_size(covered, percent)
    assert 0 <= size <= covered
    assert size >= covered * percent / 100.0 - 1e-6


def test_the_signers_cap_opens_wave_by_wave() -> None:
    caps = [cap_at(POLICY.waves, covered=20, elapsed_s=t) for t in (0.0, 59.0, 60.0, 119.0, 120.0)]
    assert caps == [2, 2, 10, 10, 20]


GATE_CASES = [
    ("all is well", GateRule(), evidence(), "pass", "all-rules-pass"),
    ("too early", GateRule(), evidence(elapsed_s=59.0), "wait", "minimum-time"),
    ("nobody answered with it", GateRule(), evidence(exposed=()), "wait", "minimum-devices"),
    ("too few requests", GateRule(minimum_requests=101), evidence(), "wait", "minimum-requests"),
    ("too few labels", GateRule(minimum_labels=51), evidence(), "wait", "accuracy-drop"),
    ("too few comparisons", GateRule(minimum_compared=51), evidence(), "wait", "disagreement"),
    ("limit reached", GateRule(minimum_labels=51, limit_s=100.0), evidence(), "broken", "not-enough-evidence"),
    ("a failed device", GateRule(), evidence(failed=("a",)), "broken", "failed-devices"),
    ("a borne failure", GateRule(failed_devices_grace=1), evidence(failed=("a",)), "pass", "all-rules-pass"),
    (
        "accuracy fell",
        GateRule(accuracy_drop=0.05),
        evidence(wave=Figures(requests=9, labelled=50, correct=45)),
        "broken",
        "accuracy-drop",
    ),
    ("answers differ", GateRule(disagreement=0.019), evidence(), "broken", "disagreement"),
    (
        "no release before, so nothing to compare with",
        GateRule(minimum_compared=10),
        evidence(had_previous=0, remaining=0),
        "pass",
        "all-rules-pass",
    ),
    (
        "a part above its whole",
        GateRule(),
        evidence(wave=Figures(labelled=1, correct=2)),
        "broken",
        "evidence-unreadable",
    ),
    ("negative", GateRule(), evidence(others=Figures(requests=-1)), "broken", "evidence-unreadable"),
    ("last wave, under way", GateRule(), evidence(last_wave=True, unsettled=("b",)), "wait", "settled"),
    ("a middle wave, under way", GateRule(), evidence(unsettled=("b",)), "pass", "all-rules-pass"),
]


@pytest.mark.parametrize(
    ("rule", "seen", "outcome", "cause"), [c[1:] for c in GATE_CASES], ids=[c[0] for c in GATE_CASES]
)
def test_the_gate_judges(rule: GateRule, seen: WaveEvidence, outcome: str, cause: str) -> None:
    verdict = judge(rule, seen)
    assert (verdict.outcome, verdict.cause) == (outcome, cause)


def test_a_verdict_explains_itself_as_data() -> None:
    verdict = judge(GateRule(), evidence(failed=("a",)))
    finding = next(finding for finding in verdict.findings if finding.rule == "failed-devices")
    assert (finding.outcome, finding.observed, finding.bound, finding.devices) == ("broken", 0.5, 0.02, ("a",))
    assert finding.text == "1 of 2 devices refused the release or rolled it back (allowed: 2.0%, or 0 devices)"


@pytest.mark.parametrize(
    ("order", "state", "message"),
    [
        ("pause", "paused", "cannot pause rollout 'r': it is paused, expected running"),
        ("resume", "running", "cannot resume rollout 'r': it is running, expected paused"),
        ("abort", "completed", "cannot abort rollout 'r': it is completed, expected running or paused"),
        ("undo", "halted", "cannot undo rollout 'r': it is halted, expected running or paused or completed"),
    ],
)
def test_an_order_without_meaning_is_refused(order: Any, state: Any, message: str) -> None:
    with pytest.raises(ConflictError) as caught:
        carry_out(replace(START, state=state), order, [])
    assert caught.value.message == message


class Simulation:
    """A fleet that obeys the engine and misbehaves as hypothesis wants."""

    def __init__(self, count: int) -> None:
        self.devices = {f"d{number}": DeviceEvidence(device=f"d{number}", online=True) for number in range(count)}
        self.rollout = replace(START, holdout=draw_holdout("s", self.devices, POLICY.holdout_percent))
        self.given: list[str] = []
        self.reverted: list[str] = []
        self.now = 1.0

    def turn(self) -> None:
        before = self.rollout
        done = step(before, list(self.devices.values()), self.now)
        assert done == step(before, list(self.devices.values()), self.now), "equal arguments, equal steps"
        self.rollout = done.rollout
        self.check_change(before.state)
        for name in done.assign:
            self.given.append(name)
            self.devices[name] = replace(self.devices[name], assigned=True)
        for name in done.revert:
            self.reverted.append(name)
            self.devices[name] = replace(self.devices[name], settled=False, back=False)

    def check_change(self, before: str) -> None:
        allowed = {
            "running": {"running", "completed", "halted"},
            "paused": {"paused"},
            "halted": {"halted", "rolled-back"},
            "completed": {"completed"},
            "rolled-back": {"rolled-back"},
        }
        assert self.rollout.state in allowed[before]

    def check_rules(self) -> None:
        assert len(self.given) == len(set(self.given)), "a device got the release twice"
        size = wave_size(len(self.devices), POLICY.waves[self.rollout.wave].percent)
        assert len(self.given) <= size
        if self.rollout.wave < len(POLICY.waves) - 1:
            assert not set(self.given) & self.rollout.holdout
        if self.rollout.state in ("halted", "rolled-back"):
            assert sorted(self.reverted) == sorted(self.given)
        else:
            assert not self.reverted


EVENTS = st.sampled_from(["pass-time", "work", "fail", "offline", "online", "join", "back", "pause", "resume", "abort"])


@given(st.integers(0, 12), st.lists(st.tuples(EVENTS, st.integers(0, 30)), max_size=60))
def test_whatever_happens_the_rules_of_a_rollout_hold(count: int, happenings: list[tuple[str, int]]) -> None:
    world = Simulation(count)
    for event, number in happenings:
        names = sorted(world.devices)
        name = names[number % len(names)] if names else None
        device = world.devices.get(name) if name else None
        if event == "pass-time":
            world.now += number * 10.0
        elif event == "join":
            world.devices[f"j{number}"] = world.devices.get(
                f"j{number}", DeviceEvidence(device=f"j{number}", online=True)
            )
        elif event in ("pause", "resume", "abort"):
            allowed = {"pause": ("running",), "resume": ("paused",), "abort": ("running", "paused")}[event]
            if world.rollout.state in allowed:
                ordered = carry_out(world.rollout, event, list(world.devices.values()))  # type: ignore[arg-type]
                world.rollout = ordered.rollout
                world.reverted += ordered.revert
        elif device is not None:
            changed = {
                "work": {"candidate": Figures(requests=20), "settled": True} if device.assigned else {},
                "fail": {"failed": True, "settled": False} if device.assigned else {},
                "offline": {"online": False},
                "online": {"online": True},
                "back": {"back": True} if world.rollout.state == "halted" else {},
            }[event]
            world.devices[device.device] = replace(device, **changed)
        world.turn()
        world.check_rules()


def test_a_healthy_rollout_completes_and_holds_its_holdout_back_until_the_last_wave() -> None:
    world = Simulation(10)
    seen = []
    for _ in range(12):
        world.turn()
        for name in world.given:
            world.devices[name] = replace(world.devices[name], settled=True, candidate=Figures(requests=20))
        seen.append((world.rollout.wave, len(world.given)))
        world.now += 3600.0
    assert world.rollout.state == "completed"
    assert (0, 1) in seen
    assert (1, 5) in seen
    assert seen[-1] == (2, 10)


@given(st.integers(0, 20), st.sets(st.integers(1, 60)), st.lists(st.tuples(st.integers(1, 60), st.integers(0, 9))))
def test_a_watermark_stops_before_the_first_missing_sequence(
    mark: int, stored: set[int], gaps: list[tuple[int, int]]
) -> None:
    ranges = [(first, first + length) for first, length in gaps]
    covered = stored | {number for first, last in ranges for number in range(first, last + 1)}
    expected = mark
    while expected + 1 in covered:
        expected += 1
    assert advance(mark, stored, ranges) == expected


def test_devices_are_assigned_in_order_up_to_the_waves_size() -> None:
    order = ["a", "b", "c", "d"]
    given = devices_to_assign(order, assigned=frozenset("a"), holdout=frozenset("b"), size=3)
    assert given == ("c", "d")
    assert devices_to_assign(order, assigned=frozenset("abc"), holdout=frozenset(), size=2) == ()


def chain(count: int) -> list[AuditEntry]:
    entries: list[AuditEntry] = []
    previous = GENESIS
    for number in range(1, count + 1):
        fields: dict[str, Any] = {"number": number, "at": 1.5, "actor": "ada", "action": "x", "subject": "y"}
        fields |= {"detail": "", "previous_hash": previous}
        previous = entry_hash(**fields)
        entries.append(AuditEntry(hash=previous, **fields))
    return entries


def test_an_audit_log_shows_where_it_was_tampered_with() -> None:
    entries = chain(4)
    assert first_broken(entries) is None
    assert first_broken([entries[0], entries[2]]) == 3
    assert first_broken([entries[0], msgspec.structs.replace(entries[1], actor="eve"), *entries[2:]]) == 2


def test_a_model_that_nothing_has_run_is_published_only_where_the_policy_says_so(
    tmp_path: Path, make_bundle: Callable[..., Path]
) -> None:
    manifest = open_bundle(make_bundle(tmp_path)).manifest
    unproved = msgspec.structs.replace(manifest, execution="compiled-not-run")
    policy = Policy(format_version=1, rollout=POLICY)
    assert check_release([manifest], policy) == ("digits", "1.0.0")
    with pytest.raises(PolicyError) as raised:
        check_release([unproved], policy)
    assert (raised.value.message, raised.value.hint) == (
        "the bundle for 'linux-x86_64' is compiled-not-run: nothing has run its model as the board will",
        "try it on a real board, then publish it with allow_compiled_not_run = true in the policy",
    )
    allowed = msgspec.structs.replace(policy, allow_compiled_not_run=True)
    assert check_release([unproved], allowed) == ("digits", "1.0.0")
