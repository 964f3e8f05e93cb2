# SPDX-License-Identifier: Apache-2.0
"""The zoo of bad models and of innocent faults, on the real agent, engine and admission under a turned clock.

    python -m benchmarks.campaign_bad_models [--healthy 3000]

Each bad model (benchmarks/bad_models.py) is offered three times: with the good model's parity vectors, with its own
(whoever signed it took it for good), and with its own where no acceptance examples are pinned, so that only what
happens live can tell. Every one has to be refused or rolled back, by the right cause. Innocent faults befall a healthy
update: none may be rolled back. Healthy updates with reboots and lost power at random moments: no rollback either.
"""

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.bad_models import EVERYWHERE, WAITING, bad_model
from benchmarks.record import write
from benchmarks.zoo_device import DIGITS, Made, ZooDevice, pack, policy
from device_agent.adapters.admission_process import AdmissionProcess
from device_agent.admission.checks import InProcessAdmission
from edgefleet.contracts.messages import Event

Array = npt.NDArray[Any]
Picture = tuple[Array, int | None]
STANCES = ("honest vectors", "own vectors", "own vectors, nothing pinned")
_BUDGET_US = 2000
_ROUNDS = 60
_BATCH = 40
#: Causes that are right for a fault, at admission and live.
_AT_ADMISSION = {"parity-reference", "non-finite", "acceptance", "latency-budget"}
_LIVE = {"labels", "class-missing", "class-drift", "confidence", "latency"}
RIGHT_CAUSES: dict[str, set[str]] = dict.fromkeys(EVERYWHERE, _AT_ADMISSION | _LIVE) | {
    "NaN": {"non-finite"},
    "infinity": {"non-finite", "parity-reference"},
    "slow": {"latency-budget", "parity-reference"},
    "fails on blank": {"failed-requests"},
    "hangs on blank": {"deadline"},
}


class Outcome(NamedTuple):
    """What became of an update: the release that answers at the end, why, and what was told."""

    version: str
    kind: str
    cause: str
    detail: str
    alerts: int


class Zoo:
    """Good models of the digits example, its pictures, and a die that falls the same way each time."""

    def __init__(self, seed: int = 1) -> None:
        self.v1, self.v5 = ((DIGITS / f"{name}_float32.tflite").read_bytes() for name in ("v1", "v5"))
        digits = np.load(DIGITS / "digits.npz")
        self.pictures, self.labels = digits["live_x"].astype(np.float32), digits["live_y"].astype(int)
        self.rng = np.random.default_rng(seed)

    def some(self, count: int = _BATCH, *, labelled: bool = False, classes: tuple[int, ...] = ()) -> list[Picture]:
        """Draw pictures."""
        among = np.flatnonzero(np.isin(self.labels, classes)) if classes else np.arange(len(self.labels))
        drawn = self.rng.choice(among, count)
        return [(self.pictures[at][np.newaxis], int(self.labels[at]) if labelled else None) for at in drawn]

    def device(self, folder: Path, **ports: Any) -> ZooDevice:
        """Return a device that runs the first good release and knows how that answers."""
        device = ZooDevice(folder, **ports)
        first = pack(self.v1, "1.0.0")
        device.shelf.put(first, policy(first, pinned=True, requests=20))
        while device.version != "1.0.0":
            device.live(self.some(10))
        for _ in range(8):
            device.live(self.some())
        return device


def bad(zoo: Zoo, name: str, stance: str) -> Outcome:
    """Offer a bad model, and let a device live until it has decided."""
    faults = EVERYWHERE | WAITING
    model = bad_model(zoo.v1, faults[name])
    budget = _BUDGET_US if name == "slow" else None
    golden = zoo.v1 if stance == STANCES[0] or name in WAITING else None
    made = pack(model, "2.0.0", golden=golden, latency_p99_us=budget, blank=name == "hangs on blank")
    with tempfile.TemporaryDirectory() as folder:
        device = zoo.device(Path(folder))
        if name == "hangs on blank":  # in a child that can be ended: a test vector of its own is blank
            device.stop(cleanly=True)
            device.admission = AdmissionProcess(deadline_s=5.0)
            device.start()
        feed = _with_blanks(zoo) if name in WAITING else (lambda: zoo.some(labelled=True))
        return update(device, made, pinned=stance != STANCES[2], feed=feed)


def _with_blanks(zoo: Zoo) -> Callable[[], list[Picture]]:
    blank = np.zeros((1, 8, 8, 1), np.float32)
    return lambda: [*zoo.some(), (blank, None)]


def update(
    device: ZooDevice,
    made: Made,
    *,
    pinned: bool,
    feed: Callable[[], list[Picture]],
    between: Callable[[], None] = lambda: None,
) -> Outcome:
    """Order a release, and live until it is decided; ``between`` happens after each round."""
    told = len(device.events())
    device.shelf.put(made, policy(made, pinned=pinned))
    for _ in range(_ROUNDS):
        device.live(feed())
        between()
        if device.agent.status == "idle" and _decided(device.events()[told:]):
            break
    return _outcome(device, device.events()[told:])


def _decided(events: list[Event]) -> bool:
    return any(event.kind in ("committed", "admission-refused", "rollback-verified", "safe-mode") for event in events)


def _outcome(device: ZooDevice, events: list[Event]) -> Outcome:
    ends = [e for e in events if e.kind in ("committed", "admission-refused", "rolled-back")]
    last = ends[-1] if ends else None
    alerts = sum(event.kind == "input-changed" for event in events)
    kind, cause, detail = (last.kind, last.cause, last.detail) if last else ("undecided", "", "")
    return Outcome(device.version, kind, cause, detail, alerts)


def innocent_faults(zoo: Zoo) -> dict[str, Callable[[Path], Outcome]]:
    """Return innocent faults by name: each befalls a healthy update."""

    def sees(change: Callable[[Array], Array], **which: Any) -> Callable[[Path], Outcome]:
        def befall(folder: Path) -> Outcome:
            device = zoo.device(folder)
            feed = lambda: [(change(x), label) for x, label in zoo.some(labelled=True, **which)]  # noqa: E731
            return update(device, pack(zoo.v5, "2.0.0"), pinned=True, feed=feed)

        return befall

    frozen = zoo.pictures[5][np.newaxis]
    return {
        "inverted input": sees(lambda x: 16.0 - x),
        "dark input": sees(lambda x: x * np.float32(0.15)),
        "frozen input": sees(lambda _: frozen),
        "shifted input": sees(lambda x: np.roll(x, 3, axis=2)),
        "changed class mix": sees(lambda x: x, classes=(8, 9)),
        "slow disk": lambda folder: _disturbed(zoo, folder, "disk"),
        "clock jump": lambda folder: _disturbed(zoo, folder, "clock"),
        "busy CPU": lambda folder: _disturbed(zoo, folder, "busy"),
        "battery pulled": lambda folder: _disturbed(zoo, folder, "battery"),
        "reboot in a trial": lambda folder: _disturbed(zoo, folder, "reboot"),
    }


def _disturbed(zoo: Zoo, folder: Path, what: str) -> Outcome:
    busy = iter([True, True, False])
    admission = InProcessAdmission(busy=lambda: next(busy, False)) if what == "busy" else None
    device = zoo.device(folder, admission=admission)
    rounds: Iterator[int] = iter(range(10_000))

    def between() -> None:
        number = next(rounds)
        if what == "clock":
            device.clock.offset_s += (-1) ** number * 3e8
        elif what == "disk":
            device.clock.now_s += 900.0  # a save that took a quarter of an hour
        elif what in ("battery", "reboot") and number % 3 == 1:
            device.stop(cleanly=what == "reboot")
            device.start()

    budget = 60_000 if what == "busy" else None
    made = pack(zoo.v5, "2.0.0", latency_p99_us=budget)
    return update(device, made, pinned=True, feed=lambda: zoo.some(labelled=True), between=between)


def healthy(zoo: Zoo, device: ZooDevice, version: int) -> Outcome:
    """Update to the other good model, with reboots and lost power at random moments."""
    made = pack(zoo.v5 if version % 2 else zoo.v1, f"3.0.{version}")

    def between() -> None:
        if zoo.rng.random() < 0.15:
            device.stop(cleanly=zoo.rng.random() < 0.5)
            device.start()

    return update(device, made, pinned=True, feed=lambda: zoo.some(50), between=between)


def main() -> int:
    """Run the zoo, print its table, and keep it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--healthy", type=int, default=3000)
    options = parser.parse_args()
    zoo = Zoo()
    bad_rows = [_bad_row(zoo, name, stance) for name in EVERYWHERE for stance in STANCES]
    bad_rows += [_bad_row(zoo, name, STANCES[1]) for name in WAITING]
    innocent_rows = []
    for name, befall in innocent_faults(zoo).items():
        with tempfile.TemporaryDirectory() as folder:
            innocent_rows.append({"fault": name, **befall(Path(folder))._asdict()})
            _print(name, "", innocent_rows[-1])
    ends = _healthy_trials(zoo, options.healthy)
    caught = sum(row["right"] for row in bad_rows)
    blamed = sum(row["kind"] == "rolled-back" for row in innocent_rows)
    result = {
        "bad_models": {"offered": len(bad_rows), "refused_or_rolled_back_by_the_right_cause": caught},
        "innocent_faults": {"befell": len(innocent_rows), "rolled_back": blamed},
        "healthy_trials": dict(ends),
        "table": bad_rows + innocent_rows,
    }
    write("campaign_bad_models", result)
    return 0 if caught == len(bad_rows) and not blamed and set(ends) == {"committed"} else 1


def _bad_row(zoo: Zoo, name: str, stance: str) -> dict[str, Any]:
    outcome = bad(zoo, name, stance)
    right = outcome.version == "1.0.0" and outcome.cause in RIGHT_CAUSES[name]
    row = {"fault": name, "stance": stance, "right": right, **outcome._asdict()}
    _print(name, stance, row)
    return row


def _print(name: str, stance: str, row: dict[str, Any]) -> None:
    print(f"{name:20} {stance:28} {row['kind']:18} {row['cause']:18} {row['detail'][:90]}", flush=True)


def _healthy_trials(zoo: Zoo, count: int) -> Counter[str]:
    ends: Counter[str] = Counter()
    done = 0
    while done < count:
        with tempfile.TemporaryDirectory() as folder:
            device = zoo.device(Path(folder))
            for _ in range(min(50, count - done)):
                outcome = healthy(zoo, device, done)
                ends[outcome.kind] += 1
                done += 1
                if outcome.kind != "committed":
                    print(f"healthy trial {done}: {outcome}", flush=True)
    return ends


if __name__ == "__main__":
    sys.exit(main())
