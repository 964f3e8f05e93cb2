# SPDX-License-Identifier: Apache-2.0
"""The power is cut at every place of an update, and every page of a device's memory is damaged once.

``python -m benchmarks.campaign_power_loss [--rig NAME …] [--every N] [--folder DIR]``: all rigs of
``fleet_emulation.power_loss``, and each planted fault, which must be seen. Exits with 1 if a
cut did harm, or a plant was not seen.
"""

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.record import write
from fleet_emulation.demo.run import example_folder
from fleet_emulation.power_loss import disk_images
from fleet_emulation.power_loss.agent import AgentSubject
from fleet_emulation.power_loss.damaged_pages import damage_pages
from fleet_emulation.power_loss.disk_images import image_disks
from fleet_emulation.power_loss.kill_sweep import kill_sweep
from fleet_emulation.power_loss.lost_writes import lose_writes
from fleet_emulation.power_loss.plants import PLANTS
from fleet_emulation.power_loss.report import RigReport
from fleet_emulation.power_loss.workshop import make_agent_subject

#: Files there cost no disk its time.
MEMORY = Path("/dev/shm")  # noqa: S108  a file system in memory, and a folder of our own in it
Rig = Callable[..., RigReport]
RIGS: dict[str, Rig] = {
    "kills": kill_sweep,
    "lost-writes": lose_writes,
    "images": image_disks,
    "pages": damage_pages,
}
_PLANTS_SEEN_BY: tuple[str, ...] = ("lost-writes",)


def main() -> int:
    options = _options()
    logging.getLogger("edgefleet").setLevel(logging.CRITICAL)
    results: dict[str, Any] = {}
    parent = options.folder or (MEMORY if MEMORY.is_dir() else None)
    with tempfile.TemporaryDirectory(prefix="edgefleet-power-", dir=parent) as name:
        folder = Path(name).resolve()
        subject = make_agent_subject(folder / "subject", example_folder())
        for rig in options.rig:
            if rig == "images" and (what := disk_images.missing()):
                results[rig] = {"skipped": what}
                continue
            results[rig] = _run(rig, subject, folder, options.every)
            if rig in _PLANTS_SEEN_BY:
                results["plants"] = {plant: _plant(plant, RIGS[rig], subject, folder) for plant in PLANTS}
    write("campaign_power_loss", {"every": options.every, "rigs": results})
    harmed = sum(result.get("harmed", 0) for name, result in results.items() if name != "plants")
    unseen = [plant for plant, seen in results.get("plants", {}).items() if not seen]
    return 1 if harmed or unseen else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rig", nargs="+", choices=RIGS, default=list(RIGS))
    parser.add_argument("--every", type=int, default=1, help="try each N-th place only")
    parser.add_argument("--folder", type=Path, default=None)
    return parser.parse_args()


def _run(name: str, subject: AgentSubject, folder: Path, every: int) -> dict[str, Any]:
    started = time.monotonic()
    report = RIGS[name](subject, folder / "rig", every=every)
    took_s = time.monotonic() - started
    print(f"{name}: {report.text()} ({took_s:.0f} s)", flush=True)
    return {**msgspec.to_builtins(report), "seconds": round(took_s, 1)}


def _plant(name: str, rig: Rig, subject: AgentSubject, folder: Path) -> bool:
    """Return whether a rig sees a planted fault."""
    report = rig(replace(subject, plant=PLANTS[name]), folder / "plant", every=10, enough=1, newest_first=True)
    print(f"planted in {name}: {'seen' if report.harmed else 'NOT SEEN'}", flush=True)
    return bool(report.harmed)


if __name__ == "__main__":
    sys.exit(main())
