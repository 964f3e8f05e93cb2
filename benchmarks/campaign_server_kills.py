# SPDX-License-Identifier: Apache-2.0
"""``kill -9`` of the server at random moments of rollouts, with four real agents; it is started again at once.

    python -m benchmarks.campaign_server_kills [--kills 10] [--seed N]

Every rollout must end properly, none may be lost, and no device may get two orders under one counter: the server's
assignments, the signer's journal and what the devices accepted are compared. Exits with 1 otherwise.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks.record import write
from fleet_emulation.demo.run import example_folder
from fleet_emulation.kills import ServerKill, kill_server, lost_rollouts, moments, orders_given_twice, undisturbed_s
from fleet_emulation.rehearsal import ENDED, Rehearsal

_AGENTS = 4


def main() -> int:
    options = _options()
    print(f"seed {options.seed}", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="edgefleet-campaign-") as name,
        Rehearsal(Path(name) / "fleet", example_folder(), agents=_AGENTS, seed=options.seed) as rehearsal,
    ):
        rollout_s = undisturbed_s(rehearsal)
        print(f"a rollout without disturbance takes {rollout_s:.1f} s", flush=True)
        kills = _kill_all(rehearsal, options, rollout_s)
        lost, twice = lost_rollouts(rehearsal), orders_given_twice(rehearsal.bed)
    ended = sum(kill.rollout in ENDED for kill in kills)
    write(
        "campaign_server_kills",
        {
            "seed": options.seed,
            "agents": _AGENTS,
            "undisturbed_s": round(rollout_s, 2),
            "kills": len(kills),
            "rollouts_ended": ended,
            "rollouts_completed": sum(kill.rollout == "completed" for kill in kills),
            "rollouts_lost": lost,
            "orders_given_twice": twice,
            "each": msgspec.to_builtins(kills),
        },
    )
    return 0 if ended == len(kills) and not lost and not twice else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    return parser.parse_args()


def _kill_all(rehearsal: Rehearsal, options: argparse.Namespace, rollout_s: float) -> list[ServerKill]:
    kills = []
    for number, after_s in enumerate(moments(options.seed, options.kills, within_s=rollout_s)):
        kill = kill_server(rehearsal, after_s=after_s)
        kills.append(kill)
        print(
            f"{number + 1:3}  at {kill.after_s:5.2f} s, {kill.state} in wave {kill.wave}, "
            f"back after {kill.down_s:4.2f} s, rollout {kill.rollout}",
            flush=True,
        )
    return kills


if __name__ == "__main__":
    sys.exit(main())
