# SPDX-License-Identifier: Apache-2.0
"""Seconds that emulated Linux devices take: made, booted, started, to the first inference, and for an update.

    python -m benchmarks.linux_devices [--repeats 5] [--anew]

``--anew`` makes the root file system and boots in an empty cache, which needs the network; else both come from the
cache if they are there. The baseline of the first inference, in the same call, is a Python process of this machine.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.record import SHARED, cost_of, skip, write
from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.runtimes.litert import LiteRtInterpreter
from fleet_emulation.demo.run import example_folder
from fleet_emulation.linux_devices.device import linux_device
from fleet_emulation.linux_devices.inference import infer_in_user_mode, infer_on
from fleet_emulation.linux_devices.root_file_system import root_file_system
from fleet_emulation.linux_devices.small_fleet import BLANK, small_fleet
from fleet_emulation.linux_devices.user_mode import arm_python

_SCRIPT = Path(__file__).parents[1] / "fleet_emulation/linux_devices/inside/infer.py"
_KIB = 1024


def main() -> None:
    options = _options()
    model_path = SHARED / "models" / "kws_int8.tflite"
    if not model_path.exists():
        skip(f"there is no '{model_path}' (EDGEFLEET_SHARED)")
    model = model_path.read_bytes()
    sample = np.zeros((1, *LiteRtInterpreter(model).inputs[0].shape), np.int8)
    with ExitStack() as cleaned:
        if options.anew:
            os.environ["XDG_CACHE_HOME"] = cleaned.enter_context(tempfile.TemporaryDirectory(prefix="edgefleet-bench-"))
        try:
            make_s, _ = _timed(root_file_system)
        except EdgeFleetError as error:
            skip(str(error))
        boot_s, _ = _timed(_start)
        starts = [_timed(_start) for _ in range(options.repeats)]
        document: dict[str, Any] = {
            "baseline": "first inference of kws_int8 in a Python process of this machine",
            "made_and_booted_anew": options.anew,
            "root_file_system_s": round(make_s, 1),
            "boot_and_start_s": round(boot_s, 1),
            "start_s": _median([seconds for seconds, _ in starts]),
            "private_mib_after_start": _median([mib for _, mib in starts]),
            "first_inference_s": _first_inferences(model_path, model, sample, options.repeats),
            "update_s": _update(Path(cleaned.enter_context(tempfile.TemporaryDirectory(prefix="ef-")))),
        }
    write("linux_devices", document)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--anew", action="store_true")
    return parser.parse_args()


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.monotonic()
    result = work()
    return time.monotonic() - started, result


def _median(values: list[float]) -> float:
    return round(statistics.median(values), 2)


def _start() -> float:
    """Start a device and return the memory in MiB that it shares with nobody."""
    with linux_device() as device:
        lines = Path(f"/proc/{device.pid}/smaps_rollup").read_text().splitlines()[1:]
    kib = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
    return kib["Private_Dirty"] / _KIB


def _first_inferences(path: Path, model: bytes, sample: Any, repeats: int) -> dict[str, float]:
    """Return seconds from nothing to the first output: here, under qemu-user, and on a device from its switch on."""

    def on_a_device() -> None:
        with linux_device() as device:
            infer_on(device, model, [sample], kernels="reference")

    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as name:
        np.savez(Path(name) / "inputs.npz", x0=sample)
        here = [sys.executable, _SCRIPT, path, Path(name) / "inputs.npz", Path(name) / "outputs.npz", "reference"]
        baseline = _median([cost_of(here).wall_s for _ in range(repeats)])
    python = arm_python()
    emulated = lambda: infer_in_user_mode(python, model, [sample], kernels="reference")  # noqa: E731
    in_user_mode = [_timed(emulated)[0] for _ in range(repeats)]
    whole = [_timed(on_a_device)[0] for _ in range(repeats)]
    return {
        "here": baseline,
        "user_mode": _median(in_user_mode),
        "device_from_off": _median(whole),
        "device_ratio": round(statistics.median(whole) / baseline, 1),
    }


def _update(folder: Path) -> dict[str, float]:
    """Return seconds from the order to the commit of a first release, and to the proved rollback of a bad one."""
    with small_fleet(folder / "bed", example_folder()) as fleet:
        started = time.monotonic()
        rollout = fleet.roll_out("1.0.0")
        fleet.wait_for_event("committed", "1.0.0")
        committed_s = time.monotonic() - started
        fleet.wait_for_end(rollout)
        started = time.monotonic()
        fleet.roll_out("3.0.0")
        fleet.wait_for_event("trial-started", "3.0.0")
        fleet.answer(BLANK)
        fleet.wait_for_event("rollback-verified", "1.0.0")
        return {"first_release_committed": round(committed_s, 1), "bad_release": round(time.monotonic() - started, 1)}


if __name__ == "__main__":
    main()
