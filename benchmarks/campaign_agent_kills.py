# SPDX-License-Identifier: Apache-2.0
"""``kill -9`` of a real agent's supervisor, worker, or both, at random moments of updates.

    python -m benchmarks.campaign_agent_kills [--kills 20] [--seed N]

After each kill the agent must answer with a verified model, finish its update, and have every message of its outbox on
the server. The moments come from the seed, which is printed. Exits with 1 if one kill did any harm.
"""

import argparse
import random
import sys
import tempfile
from pathlib import Path

import msgspec

from benchmarks.record import write
from fleet_emulation.demo.run import example_folder
from fleet_emulation.kills import VICTIMS, AgentKill, kill_agent, moments, undisturbed_s
from fleet_emulation.rehearsal import Rehearsal


def main() -> int:
    options = _options()
    print(f"seed {options.seed}", flush=True)
    with (
        tempfile.TemporaryDirectory(prefix="edgefleet-campaign-") as name,
        Rehearsal(Path(name) / "fleet", example_folder(), agents=1, seed=options.seed) as rehearsal,
    ):
        update_s = undisturbed_s(rehearsal)
        print(f"an update without disturbance takes {update_s:.1f} s", flush=True)
        kills = _kill_all(rehearsal, options, update_s)
    survived = sum(kill.survived for kill in kills)
    write(
        "campaign_agent_kills",
        {
            "seed": options.seed,
            "undisturbed_s": round(update_s, 2),
            "kills": len(kills),
            "survived": survived,
            "messages": kills[-1].messages,
            "messages_lost": kills[-1].lost,
            "slowest_back_s": max(kill.back_s for kill in kills),
            "each": msgspec.to_builtins(kills),
        },
    )
    return 0 if survived == len(kills) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    return parser.parse_args()


def _kill_all(rehearsal: Rehearsal, options: argparse.Namespace, update_s: float) -> list[AgentKill]:
    kills = []
    for number, after_s in enumerate(moments(options.seed, options.kills, within_s=update_s)):
        kill = kill_agent(rehearsal, 0, victim=VICTIMS[number % len(VICTIMS)], after_s=after_s)
        kills.append(kill)
        print(
            f"{number + 1:3}  {kill.victim:10} at {kill.after_s:5.2f} s in {kill.status:12} "
            f"{kill.answer} by {kill.answered_by} after {kill.back_s:4.2f} s, rollout {kill.rollout}, "
            f"{kill.lost} of {kill.messages} messages lost  {'' if kill.survived else 'HARMED'}",
            flush=True,
        )
    return kills


if __name__ == "__main__":
    sys.exit(main())
