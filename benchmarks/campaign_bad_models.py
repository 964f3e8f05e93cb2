# SPDX-License-Identifier: Apache-2.0
"""The zoo of bad models and of innocent faults, on the real agent.

    python -m benchmarks.campaign_bad_models [--parents digits] [--healthy 3000 [--more]] [--only bad innocent healthy]

Each kind of bad model (benchmarks/zoo.py) is made from each real model (benchmarks/zoo_parents.py) that it makes sense
of, and offered three times: with the good model's parity vectors, with its own (whoever signed it took it for good),
and with its own where no acceptance examples are pinned, so that only what happens live can tell. Every one has to be
refused or rolled back, by the right cause. Those that end or hold a process are offered to a device whose worker and
admission child are processes, the others under a turned clock. Innocent faults (benchmarks/zoo_innocents.py) befall a
healthy update: none may be rolled back. Healthy updates with reboots and lost power at random moments: no rollback
either. Parts that are left out are kept from the run before.
"""

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.record import keep, kept
from benchmarks.zoo import KINDS, WAITING, Outcome, Zoo, bad, kinds_of, update, why_not
from benchmarks.zoo_device import ZooDevice
from benchmarks.zoo_innocents import innocent_faults, lacking
from benchmarks.zoo_parents import missing, parents

NAME = "campaign_bad_models"
PARTS = ("bad", "innocent", "healthy")
_UPDATES_A_DEVICE = 50


def main() -> int:
    """Run the zoo, print its table, and keep it."""
    options = _options()
    for part in options.only:
        found = {"bad": _bad, "innocent": _innocent, "healthy": _healthy}[part](options)
        keep(NAME, _results() | found)
    return 0 if _passed(_results()) else 1


def _results() -> dict[str, Any]:
    """Return what was kept of all parts so far."""
    return {key: value for key, value in kept(NAME).items() if key not in ("benchmark", "machine")}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parents", nargs="*", help="by name; all that are there")
    parser.add_argument("--healthy", type=int, default=3000)
    parser.add_argument("--more", action="store_true", help="add healthy trials to those that were kept")
    parser.add_argument("--only", nargs="*", choices=PARTS, default=PARTS)
    return parser.parse_args()


def _passed(result: dict[str, Any]) -> bool:
    if not {"bad_models", "innocent_faults", "healthy_trials"} <= set(result):
        return False  # a part has never been run
    told = result["bad_models"]
    right = told["offered"] == told["refused_or_rolled_back_by_the_right_cause"]
    return right and not result["innocent_faults"]["rolled_back"] and set(result["healthy_trials"]) == {"committed"}


def _bad(options: argparse.Namespace) -> dict[str, Any]:
    chosen = [parent for parent in (make() for make in parents()) if parent.name in (options.parents or [parent.name])]
    rows = []
    for parent in chosen:
        zoo = Zoo(parent)
        rows += [_bad_row(zoo, name, s) for name, kind in kinds_of(parent).items() for s in kind.stances(parent)]
    names = {parent.name for parent in chosen}
    rows = [row for row in kept(NAME).get("table", []) if row["parent"] not in names] + rows
    left_out = {parent.name: why_not(parent) for parent in (make() for make in parents())} | missing()
    counts = {
        "parents": sorted({row["parent"] for row in rows}),
        "kinds": len({row["fault"] for row in rows}),
        "offered": len(rows),
        "refused_or_rolled_back_by_the_right_cause": sum(row["right"] for row in rows),
    }
    return {"bad_models": counts, "left_out": left_out, "table": rows}


def _bad_row(zoo: Zoo, name: str, stance: str) -> dict[str, Any]:
    outcome, causes = bad(zoo, name, stance), sorted((KINDS | WAITING)[name].causes)
    right = outcome.version == "1.0.0" and outcome.cause in causes
    row = {"fault": name, "parent": zoo.parent.name, "stance": stance, "expected": causes, "right": right}
    row |= outcome._asdict()
    told = "" if right else "  WRONG"
    print(
        f"{name:20} {zoo.parent.name:18} {stance:28} {outcome.kind:17} {outcome.where:12} {outcome.cause:16} "
        f"{outcome.detail[:60]}{told}",
        flush=True,
    )
    return row


def _innocent(_: argparse.Namespace) -> dict[str, Any]:
    rows = []
    for name, befall in innocent_faults(Zoo()).items():
        if lacking(name):
            print(f"{name:20} left out: {lacking(name)}")
            continue
        with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
            outcome = befall(Path(folder))
        rows.append({"fault": name, **outcome._asdict()})
        print(
            f"{name:20} {outcome.kind:17} {outcome.version:8} alerts {outcome.alerts} {outcome.detail[:80]}", flush=True
        )
    blamed = sum(row["kind"] != "committed" for row in rows)
    return {"innocent_faults": {"befell": len(rows), "rolled_back": blamed}, "innocent_table": rows}


def _healthy(options: argparse.Namespace) -> dict[str, Any]:
    ends = Counter[str](kept(NAME).get("healthy_trials", {}) if options.more else {})
    zoo, done = Zoo(seed=1 + ends.total()), 0
    while done < options.healthy:
        with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
            device = zoo.device(Path(folder))
            for _ in range(min(_UPDATES_A_DEVICE, options.healthy - done)):
                outcome = healthy(zoo, device, done)
                ends[outcome.kind] += 1
                done += 1
                if outcome.kind != "committed":
                    print(f"healthy trial {done}: {outcome}", flush=True)
        print(f"healthy trials: {dict(ends)}", flush=True)
        keep(NAME, _results() | {"healthy_trials": dict(ends)})
    return {"healthy_trials": dict(ends)}


def healthy(zoo: Zoo, device: ZooDevice, version: int) -> Outcome:
    """Update to the other good model, with reboots and lost power at random moments."""
    made = zoo.pack(zoo.v5 if version % 2 else zoo.v1, f"3.0.{version}")

    def between() -> None:
        if zoo.rng.random() < 0.15:
            device.stop(cleanly=zoo.rng.random() < 0.5)
            device.start()

    return update(device, made, pinned=True, feed=lambda: zoo.some(50), between=between)


if __name__ == "__main__":
    sys.exit(main())
