# SPDX-License-Identifier: Apache-2.0
"""From the fault of a candidate to a verified inference of the previous model: p99 at most 250 ms resident, 1 s cold.

    python -m benchmarks.campaign_fault_to_verified [--trials 200] [--seconds 3600] [--swap resident cold] [--more]

``edgefleet-agent run`` gets freshly signed candidates from a server over HTTPS, with its own checks, while an
application asks every 5 ms. Each candidate passes admission and shows one hard fault once it answers:

NaN      a blank frame is answered with NaN
crash    a blank frame ends the worker by a signal (SIGFPE): the worker must start anew
load     the bundle was damaged on the disk since its admission, and does not load where it should be put in force
hang     a blank frame is never answered: the worker is ended when the model's patience ends, and must start anew

A trial ends with the application's first answer by the previous release that is not older than the agent's event
``rollback-verified``. It begins when the application asked about the blank frame, which is before the fault; ``load``
when the agent wrote down that it activates the candidate, which is before the load; ``hang`` when the worker was ended,
and ``noticed`` tells how long after its question that was (the patience is 0.5 s, for a latency budget of 25 ms).
With ``--more`` trials are added to those that were kept, until there are as many.
"""

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import count, cycle, islice
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.bad_models import bad_model, hangs_on_blank
from benchmarks.deadly_models import crashes_on_blank, nan_on_blank
from benchmarks.live_device import Deaths, LiveAgent, LiveDevice, Log, wait_for
from benchmarks.record import keep, kept
from benchmarks.zoo_device import DIGITS, pack
from device_agent.adapters.storage.holds import Hold, HoldFolder
from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.policy import DevicePolicy, ShadowRule, TrialRule

NAME = "campaign_fault_to_verified"
LIMITS_MS = {"resident": 250.0, "cold": 1000.0}
KINDS = ("NaN", "crash", "load", "hang")
_MODELS = {"NaN": nan_on_blank, "crash": crashes_on_blank, "load": nan_on_blank, "hang": hangs_on_blank}
_CAUSES = {"NaN": "non-finite", "crash": "crash", "load": "bundle-invalid", "hang": "hang"}
#: Of latency: admission keeps to it, and 20 times as long is a call's patience.
_BUDGET_US = 25_000
_RULES = DevicePolicy(
    shadow=ShadowRule(samples=1, limit_s=3600.0),
    trial=TrialRule(requests=1_000_000_000, limit_s=86_400.0, crash_limit=0),
)
_SETTINGS = 'swap = "{swap}"\npoll_s = 0.5\ntelemetry_s = 60.0\n'
_GOOD = (DIGITS / "v1_float32.tflite").read_bytes()
_FIRST = "digits 1.0.0"
_SETTLE_S = 1.0
_HELD_S = 0.2


class Trial(NamedTuple):
    """One fault: seconds from it to the verified previous model, and before it until it was noticed."""

    kind: str
    took_s: float
    event_s: float
    noticed_s: float


def main() -> int:
    options = _options()
    earlier = kept(NAME) if options.more else {}
    modes: dict[str, Any] = dict(earlier.get("modes", {}))
    with tempfile.TemporaryDirectory(prefix="ef-") as folder:
        for swap in options.swap:
            before = [Trial(*values) for values in modes.get(swap, {}).get("each", [])]
            wanted = list(islice(cycle(KINDS), len(before), options.trials))
            trials, asked = faults(Path(folder) / swap, swap, wanted, seconds=options.seconds)
            known = modes.get(swap, {}).get("application", {})
            modes[swap] = figures(swap, before + trials) | {
                "application": {name: number + known.get(name, 0) for name, number in asked.items()},
            }
            text = keep(NAME, {"limits_ms": LIMITS_MS, "patience_s": 0.5, "modes": modes})
    print(text)
    for swap, mode in modes.items():
        print(swap, "all", mode["all"], "\n  ", "\n   ".join(f"{k}: {mode['kinds'][k]}" for k in mode["kinds"]))
    return 0 if all(mode["all"]["of_limit"] <= 1.0 for mode in modes.values()) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200, help="of all kinds together, for each way to swap")
    parser.add_argument("--seconds", type=float, default=3600.0, help="begin no trial after so long in each way")
    parser.add_argument("--swap", nargs="+", choices=list(LIMITS_MS), default=list(LIMITS_MS))
    parser.add_argument("--more", action="store_true", help="add to the kept result of earlier runs")
    return parser.parse_args()


def faults(
    folder: Path, swap: str, kinds: Sequence[str], *, seconds: float = 3600.0
) -> tuple[list[Trial], dict[str, int]]:
    """Let one device meet some faults, one after another; return them, and what the application got.

    None begins after so many ``seconds``.
    """
    until = time.monotonic() + seconds
    first, trials, versions = pack(_GOOD, "1.0.0"), [], count(1)
    with LiveDevice(folder, first) as device, device.agent(_SETTINGS.format(swap=swap)) as agent:
        agent.wait_until_committed(first)
        for kind in kinds:
            if time.monotonic() > until:
                break
            shown = (_met(device, agent, kind, f"2.0.{version}") for version in versions)
            trials.append(next(trial for trial in shown if trial is not None))
            print(f"{swap} {len(trials):3} {kind:6} {trials[-1].took_s * 1000:7.1f} ms", flush=True)
        asked = agent.application.tally()
    return trials, asked


def _met(device: LiveDevice, agent: LiveAgent, kind: str, version: str) -> Trial | None:
    """Order a candidate, and let it show its fault; None where it was too fast to be damaged."""
    model = bad_model(_GOOD, _MODELS[kind])
    candidate = pack(model, version, golden=_GOOD, latency_p99_us=_BUDGET_US)
    device.order(candidate, _RULES)
    if kind != "load":
        return _shown(agent, kind, f"digits {version}")
    trial = _damaged(agent, agent.files.slots / f"{candidate.release.bundle_sha256}.bundle")
    if trial is None:
        _shown(agent, "NaN", f"digits {version}")
    return trial


def _shown(agent: LiveAgent, kind: str, candidate: str) -> Trial:
    """Show a blank frame to a candidate that answers."""
    agent.wait_for_answer(candidate, time.time())
    time.sleep(random.random() * _SETTLE_S)  # between any two looks of the agent
    log = agent.log()
    deaths = Deaths(agent.workers())
    try:
        asked_at = agent.application.show_blank()
        fault_at = deaths.wait() if kind == "hang" else asked_at
        return _ended(agent, kind, log, fault_at, noticed_s=fault_at - asked_at)
    finally:
        deaths.close()


def _damaged(agent: LiveAgent, bundle: Path) -> Trial | None:
    """Damage a bundle between its admission and its activation; None where the activation was faster."""
    holds = HoldFolder(agent.files.holds)
    wait_for(lambda: agent.record.status == "admission", "the admission", agent.program)
    holds.put("campaign", Hold(until=time.time() + 600.0, reason="its bundle is to be damaged"))
    wait_for(lambda: agent.record.status == "shadow", "the end of the admission", agent.program)
    time.sleep(_HELD_S)
    log, saved = agent.log(), _saved_at(agent)
    if not _may_activate(agent):
        holds.release("campaign")
        return None
    _flip_a_bit(bundle)
    holds.release("campaign")
    wait_for(lambda: _saved_at(agent) != saved, "the activation", agent.program)
    return _ended(agent, "load", log, _saved_at(agent))


def _ended(agent: LiveAgent, kind: str, log: Log, fault_at: float, *, noticed_s: float = 0.0) -> Trial:
    """Wait for the end of a trial; the outbox is not read before, as that could hold the agent up."""
    log.wait_for("rollback-verified")
    verified = wait_for(
        lambda: next((told for told in agent.told(fault_at) if told.event.kind == "rollback-verified"), None),
        "the event rollback-verified",
        agent.program,
    )
    if verified.event.cause != _CAUSES[kind]:
        raise EdgeFleetError(f"'{kind}' was rolled back for '{verified.event.cause}'", hint="see the agent's log")
    answer = agent.wait_for_answer(_FIRST, verified.at)
    return Trial(kind, answer.answered_at - fault_at, verified.at - fault_at, noticed_s)


def _may_activate(agent: LiveAgent) -> bool:
    """Tell whether the candidate was not activated yet."""
    return any(progress.attempts_left for progress in agent.record.progress.values())


def _saved_at(agent: LiveAgent) -> float:
    """Return when the agent last wrote its record (Unix seconds, of the kernel's clock)."""
    return agent.files.state.stat().st_mtime


def _flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def figures(swap: str, trials: Sequence[Trial]) -> dict[str, Any]:
    """Return a mode's figures in milliseconds: of each kind, and of all together."""
    kinds = {kind: [trial for trial in trials if trial.kind == kind] for kind in KINDS}
    return {
        "all": _summary(swap, trials),
        "kinds": {kind: _summary(swap, some) for kind, some in kinds.items() if some},
        "each": [(kind, *(round(seconds, 4) for seconds in rest)) for kind, *rest in trials],
    }


def _summary(swap: str, trials: Sequence[Trial]) -> dict[str, Any]:
    took, events = (sorted(values) for values in zip(*((t.took_s, t.event_s) for t in trials), strict=True))
    p99_ms = _ms(took[int(len(took) * 0.99)])
    found = {
        "faults": len(took),
        "median_ms": _ms(took[len(took) // 2]),
        "p99_ms": p99_ms,
        "max_ms": _ms(took[-1]),
        "of_limit": round(p99_ms / LIMITS_MS[swap], 3),
        "event_p99_ms": _ms(events[int(len(events) * 0.99)]),
    }
    noticed = sorted(trial.noticed_s for trial in trials if trial.noticed_s)
    if noticed:
        found |= {"noticed_median_ms": _ms(noticed[len(noticed) // 2]), "noticed_max_ms": _ms(noticed[-1])}
    return found


def _ms(seconds: float) -> float:
    return round(seconds * 1000.0, 1)


if __name__ == "__main__":
    sys.exit(main())
