# SPDX-License-Identifier: Apache-2.0
"""The power of an emulated Raspberry Pi is cut in the middle of its updates, at random moments.

``python -m benchmarks.campaign_power_loss_device [--kills 20] [--seed N] [--more]``: 200 kills take an hour or two, and
``--more`` adds to those of earlier runs. One to four cuts befall an update, also while the device recovers from the one
before. The disk is kept; after each cut a verified model must answer, in the end the update must be completed, and the
server must have each message. Exits with 1 if one cut did any harm.
"""

import argparse
import itertools
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.record import keep, kept, skip
from fleet_emulation.demo.run import example_folder
from fleet_emulation.linux_devices import device
from fleet_emulation.power_loss.emulated_device import DeviceKill, cut_power_in_update, update, updating_device
from fleet_emulation.rehearsal import MODELS

_NAME = "campaign_power_loss_device"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    parser.add_argument("--more", action="store_true", help="add to the kept result of earlier runs")
    options = parser.parse_args()
    if what := device.missing():
        skip(what)
    print(f"seed {options.seed}", flush=True)
    chance = random.Random(options.seed)
    earlier = kept(_NAME) if options.more else {}
    kills = msgspec.convert(earlier.get("each", []), list[DeviceKill])
    seeds = [*earlier.get("seeds", []), options.seed]
    wanted = len(kills) + options.kills
    with (
        tempfile.TemporaryDirectory(prefix="ef-") as name,
        updating_device(Path(name) / "fleet", example_folder()) as fleet,
    ):
        versions = itertools.cycle([*list(MODELS)[1:], next(iter(MODELS))])
        update_s = update(fleet, next(versions))
        print(f"an update without disturbance takes {update_s:.1f} s", flush=True)
        while len(kills) < wanted:
            cuts = min(chance.randint(1, 4), wanted - len(kills))
            after_s = [chance.uniform(0.0, update_s) for _ in range(cuts)]
            for kill in cut_power_in_update(fleet, next(versions), after_s=after_s):
                kills.append(kill)
                harm = "" if kill.survived else "HARMED"
                print(f"{len(kills):3}  {msgspec.json.encode(kill).decode()}  {harm}", flush=True)
            text = keep(_NAME, _document(kills, seeds, update_s))
    print(text)
    return 0 if all(kill.survived for kill in kills) else 1


def _document(kills: list[DeviceKill], seeds: list[int], update_s: float) -> dict[str, Any]:
    return {
        "seeds": seeds,
        "undisturbed_s": round(update_s, 1),
        "kills": len(kills),
        "survived": sum(kill.survived for kill in kills),
        "each": msgspec.to_builtins(kills),
    }


if __name__ == "__main__":
    sys.exit(main())
