# SPDX-License-Identifier: Apache-2.0
"""A good update under constant load on four real agents: how long does a request take, and how long is there none?

    python -m benchmarks.update_under_load [--updates 3] [--seed N]

The baseline is the same load on the same agents, in the same call, while nothing is updated.
"""

import argparse
import itertools
import random
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import write
from fleet_emulation.demo.applications import Application, Served
from fleet_emulation.demo.run import example_folder
from fleet_emulation.kills import undisturbed_s
from fleet_emulation.rehearsal import Rehearsal

_AGENTS = 4
_SLOW_S = 0.2


def main() -> None:
    options = _options()
    print(f"seed {options.seed}", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as name,
        Rehearsal(Path(name) / "fleet", example_folder(), agents=_AGENTS, seed=options.seed) as rehearsal,
    ):
        updates = [_window(rehearsal, lambda: undisturbed_s(rehearsal)) for _ in range(options.updates)]
        seconds = sum(update["seconds"] for update in updates) / len(updates)
        idle = _window(rehearsal, lambda: time.sleep(seconds))
    answered = sum(update["answered"] for update in updates)
    write(
        "update_under_load",
        {
            "baseline": "the same load on the same agents while nothing is updated",
            "seed": options.seed,
            "agents": _AGENTS,
            "requests": answered + sum(update["failed"] for update in updates),
            "within_200_ms": answered - sum(update["over_200_ms"] for update in updates),
            "failed": sum(update["failed"] for update in updates),
            "p99_ratio": round(max(update["p99_ms"] for update in updates) / idle["p99_ms"], 2),
            "updates": updates,
            "idle": idle,
        },
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--updates", type=int, default=3)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    return parser.parse_args()


def _window(rehearsal: Rehearsal, happens: Any) -> dict[str, Any]:
    """Return what the applications saw while something happened."""
    failed = sum(application.failed for application in rehearsal.applications)
    started = time.monotonic()
    happens()
    ended = time.monotonic()
    by_agent = [_between(application, started, ended) for application in rehearsal.applications]
    seconds = sorted(answer.seconds for answers in by_agent for answer in answers)
    return {
        "seconds": round(ended - started, 2),
        "answered": len(seconds),
        "failed": sum(application.failed for application in rehearsal.applications) - failed,
        "over_200_ms": sum(value > _SLOW_S for value in seconds),
        "p50_ms": _ms(seconds[len(seconds) // 2]),
        "p99_ms": _ms(seconds[int(len(seconds) * 0.99)]),
        "slowest_ms": _ms(seconds[-1]),
        "longest_gap_ms": _ms(max(_longest_gap_s(answers) for answers in by_agent)),
        "releases": sorted({answer.release for answers in by_agent for answer in answers}),
    }


def _between(application: Application, started: float, ended: float) -> list[Served]:
    return [answer for answer in list(application.answers) if started <= answer.at <= ended]


def _longest_gap_s(answers: Sequence[Served]) -> float:
    """Return the longest time between two answers of one agent, which are asked for every 40 ms."""
    arrivals = [answer.at + answer.seconds for answer in answers]
    return max(later - earlier for earlier, later in itertools.pairwise(arrivals))


def _ms(seconds: float) -> float:
    return round(seconds * 1000.0, 1)


if __name__ == "__main__":
    main()
