# SPDX-License-Identifier: Apache-2.0
"""Kills of a device's reporting and of mosquitto, a reflashed device, a restored server, and a month offline.

    python -m benchmarks.campaign_outbox_kills [--kills 100] [--minutes 43200] [--seed N]

The broker is a real mosquitto that keeps nothing, the ingestion is the server's own, the outbox, the reporter and MQTT
are the agent's own. What the outbox promised must be on the server in the end, once; what its bound did not allow to
keep must be told by gaps. The moments come from the seed. Exits with 1 if anything was lost untold, or counted twice.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from benchmarks.record import skip, write
from fleet_emulation.broker import find_mosquitto
from fleet_emulation.month_offline import Month, month_offline
from fleet_emulation.reporting_rig import ReportingRig, Verdict

_EVERY_S = 0.01
_OUTBOX_BYTES = 8 << 20


def main() -> int:
    options = _options()
    if find_mosquitto() is None:
        skip("mosquitto is not installed")
    print(f"seed {options.seed}", flush=True)
    draw = random.Random(options.seed)
    with tempfile.TemporaryDirectory(prefix="edgefleet-campaign-") as name:
        folder = Path(name)
        verdicts = {
            "device_kills": _device_kills(folder / "device", draw, options.kills),
            "broker_kills": _broker_kills(folder / "broker", draw, options.kills),
            "reflashed": _reflashed(folder / "reflashed", draw),
            "restored": _restored(folder / "restored", draw),
        }
        (folder / "month").mkdir()
        began_s = time.monotonic()
        month = month_offline(folder / "month", minutes=options.minutes, limit_bytes=_OUTBOX_BYTES)
        month_s = time.monotonic() - began_s
    _write(options, verdicts, month, month_s)
    return 0 if month.whole and all(verdict.whole for verdict in verdicts.values()) else 1


def _write(options: argparse.Namespace, verdicts: dict[str, Verdict], month: Month, month_s: float) -> None:
    write(
        "campaign_outbox_kills",
        {
            "seed": options.seed,
            "kills_each": options.kills,
            **msgspec.to_builtins(verdicts),
            "month_offline": {**msgspec.to_builtins(month), "whole": month.whole, "took_s": round(month_s, 1)},
        },
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=int, default=30 * 24 * 60)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    return parser.parse_args()


def _device_kills(folder: Path, draw: random.Random, kills: int) -> Verdict:
    with ReportingRig(folder, every_s=_EVERY_S) as rig:
        for _ in range(kills):
            rig.start_device()
            time.sleep(draw.uniform(0.3, 1.5))
            rig.kill_device()
        return _said(f"{kills} kills of the device", rig.settle())


def _broker_kills(folder: Path, draw: random.Random, kills: int) -> Verdict:
    with ReportingRig(folder, every_s=_EVERY_S) as rig:
        rig.start_device()
        for _ in range(kills):
            time.sleep(draw.uniform(0.3, 1.5))
            rig.restart_broker()
        return _said(f"{kills} kills of the broker", rig.settle())


def _reflashed(folder: Path, draw: random.Random) -> Verdict:
    with ReportingRig(folder, every_s=_EVERY_S) as rig:
        for _ in range(3):
            rig.start_device()
            rig.wait_until_promised(len(rig.promised()) + draw.randrange(50, 150))
            rig.settle()
            rig.kill_device()
            for path in rig.folder.glob("outbox.db*"):
                path.unlink()
        return _said("a device reflashed twice", rig.verdict())


def _restored(folder: Path, draw: random.Random) -> Verdict:
    with ReportingRig(folder, every_s=_EVERY_S) as rig:
        rig.start_device()
        rig.wait_until_promised(draw.randrange(50, 150))
        backup = rig.back_up()
        rig.wait_until_promised(len(rig.promised()) + 500)
        rig.restore(backup)
        rig.wait_until_promised(len(rig.promised()) + 50)
        return _said("a server restored from a backup", rig.settle(restart=False))


def _said(what: str, verdict: Verdict) -> Verdict:
    print(
        f"{what}: {verdict.lost} of {verdict.promised} messages lost, {verdict.repeated} came again, "
        f"{verdict.duplicates} counted twice",
        flush=True,
    )
    return verdict


if __name__ == "__main__":
    sys.exit(main())
