# SPDX-License-Identifier: Apache-2.0
"""``edgefleet demo --once --json`` again and again with different seeds.

    python -m benchmarks.campaign_demo [--runs 10] [--seed N]

The brokers take turns: mosquitto, where it is installed, and the embedded amqtt. Prints for each run its seconds,
whether every story ended as told, and whether it listened on loopback only. Exits with 1 unless all did.
"""

import argparse
import json
import random
import subprocess
import sys
import time
from itertools import cycle, islice
from typing import Any

from benchmarks.record import write
from fleet_emulation.broker import find_mosquitto


def main() -> int:
    options = _options()
    print(f"seed {options.seed}", flush=True)
    chance = random.Random(options.seed)
    brokers = cycle(["amqtt", "mosquitto"] if find_mosquitto() else ["amqtt"])
    runs = [_run(chance.randrange(1_000_000), broker) for broker in islice(brokers, options.runs)]
    told = sum(run["exit_status"] == 0 and run["as_told"] for run in runs)
    seconds = sorted(run["seconds"] for run in runs)
    write(
        "campaign_demo",
        {
            "seed": options.seed,
            "runs": len(runs),
            "as_told": told,
            "median_s": seconds[len(seconds) // 2],
            "slowest_s": seconds[-1],
            "all_listeners_on_loopback": all(run["on_loopback"] for run in runs),
            "each": runs,
        },
    )
    return 0 if told == len(runs) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    return parser.parse_args()


def _run(seed: int, broker: str) -> dict[str, Any]:
    """Run the demo once; ``seconds`` are the whole command's."""
    started = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "edgefleet.cli",
        "demo",
        "--once",
        "--json",
        "--seed",
        str(seed),
        "--broker",
        broker,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    report = json.loads(done.stdout or "{}")
    run = {
        "seed": seed,
        "broker": broker,
        "seconds": round(time.monotonic() - started, 1),
        "exit_status": done.returncode,
        "as_told": report.get("all_as_told", False),
        "stories": {story["key"]: story["as_told"] for story in report.get("stories", [])},
        "listeners": len(report.get("listeners", [])),
        "on_loopback": bool(report.get("listeners")) and all(x["on_loopback"] for x in report["listeners"]),
        "requests": report.get("requests"),
        "error": report.get("error"),
    }
    print(
        f"seed {seed:6}, {broker:9}: {run['seconds']:5.1f} s, exit {done.returncode}, as told: {run['as_told']}, "
        f"{run['listeners']} listeners, all on loopback: {run['on_loopback']}"
        + (f", {run['error']}" if run["error"] else ""),
        flush=True,
    )
    return run


if __name__ == "__main__":
    sys.exit(main())
