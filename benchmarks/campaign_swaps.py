# SPDX-License-Identifier: Apache-2.0
"""A thousand swaps of a model under constant load: is every request answered in time, and what is the longest gap?

    python -m benchmarks.campaign_swaps [--swaps 1000]

A real worker process is told to serve one model and the other in turn, while an application asks every 5 ms with a
deadline of 100 ms. ``resident`` loads the new model beside the old one; ``cold`` lets the old one go first: requests
wait. The baseline is the same load on the same worker while nothing is swapped.
"""

import argparse
import hashlib
import itertools
import tempfile
import threading
import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from benchmarks.record import ROOT, write
from benchmarks.serving_models import pack_bundle
from device_agent.adapters.children.worker_process import WorkerProcess
from device_agent.adapters.system.local_socket import listen
from device_agent.client import InferenceClient
from device_agent.core.serving import ModelRef, PlannedModel, Serving, ServingPlan
from edgefleet.contracts.manifest import Preprocessing
from edgefleet.contracts.messages import RunningRelease

Swap = Literal["resident", "cold"]
_DEADLINE_S = 0.1
_PERIOD_S = 0.005
_SWAP_LIMIT_S = 120.0
_BASELINE_S = 10.0
_MIB = 1 << 20


class Asked(NamedTuple):
    """One request: when it was answered, how long that took, with what status."""

    at_s: float
    seconds: float
    status: str


class Load:
    """An application that asks at a constant rate until it is stopped."""

    def __init__(self, path: Path) -> None:
        self.asked: list[Asked] = []
        self._path = path
        self._running = True
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        picture = np.zeros((1, 8, 8, 1), np.float32)
        with InferenceClient(self._path, timeout_s=_SWAP_LIMIT_S) as client:
            while self._running:
                started = time.monotonic()
                answer = client.infer(picture, deadline_s=_DEADLINE_S)
                ended = time.monotonic()
                self.asked.append(Asked(ended, ended - started, answer.status))
                time.sleep(max(started + _PERIOD_S - ended, 0.0))

    def stop(self) -> list[Asked]:
        """Stop asking."""
        self._running = False
        self._thread.join()
        return self.asked


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as name:
        result = {swap: swapped(Path(name) / swap, swap, options.swaps) for swap in ("resident", "cold")}
    write(
        "campaign_swaps",
        {"baseline": "the same load on the same worker while nothing is swapped", "swaps": options.swaps, **result},
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=1000)
    return parser.parse_args()


def swapped(folder: Path, swap: Swap, count: int, *, baseline_s: float = _BASELINE_S) -> dict[str, Any]:
    """Swap so many times under load, and tell what the application saw."""
    folder.mkdir()
    refs = [_slot(folder, name, version) for name, version in (("v1", "1.0.0"), ("v5", "5.0.0"))]
    listener = listen(folder / "worker.sock")
    worker = WorkerProcess(listener, readable=[folder])
    worker.start()
    try:
        _serve(worker, 0, refs[0], swap)
        load = Load(folder / "worker.sock")
        try:
            time.sleep(baseline_s)
            before = len(load.asked)
            rss = [worker.rss_bytes()]
            took = []
            for number, ref in zip(range(1, count + 1), itertools.cycle(reversed(refs)), strict=False):
                took.append(_serve(worker, number, ref, swap))
                rss.append(worker.rss_bytes())
        finally:
            asked = load.stop()
    finally:
        worker.stop()
        listener.close()
    warm = min(50, count // 2)
    return {
        "idle": _figures(asked[:before]),
        "swapping": _figures(asked[before:]),
        "swap_p50_ms": _ms(sorted(took)[len(took) // 2]),
        "worker_grew_mib": round((rss[-1] - max(rss[: warm + 1])) / _MIB, 2),
    }


def _slot(folder: Path, name: str, version: str) -> ModelRef:
    model = ROOT / "examples" / "digits" / f"{name}_float32.tflite"
    data = pack_bundle("digits", version, model.read_bytes(), Preprocessing())
    sha256 = hashlib.sha256(data).hexdigest()
    path = folder / f"{sha256}.bundle"
    path.write_bytes(data)
    return ModelRef(path=str(path), release=RunningRelease(name="digits", version=version, bundle_sha256=sha256))


def _serve(worker: WorkerProcess, number: int, ref: ModelRef, swap: Swap) -> float:
    started = time.monotonic()
    worker.serve(ServingPlan(number=number, models=(PlannedModel(primary=ref),), swap=swap))
    while not any(isinstance(r, Serving) and r.number == number for r in worker.reports()):
        assert time.monotonic() - started < _SWAP_LIMIT_S, f"swap {number} does not end"
        time.sleep(0.001)
    return time.monotonic() - started


def _figures(asked: list[Asked]) -> dict[str, Any]:
    seconds = sorted(one.seconds for one in asked)
    return {
        "requests": len(asked),
        "lost": sum(one.status not in ("ok", "deadline", "busy") for one in asked),
        "not_answered_in_time": sum(one.status != "ok" or one.seconds > _DEADLINE_S for one in asked),
        "p50_ms": _ms(seconds[len(seconds) // 2]),
        "p99_ms": _ms(seconds[int(len(seconds) * 0.99)]),
        "slowest_ms": _ms(seconds[-1]),
        "longest_gap_ms": _ms(max(b.at_s - a.at_s for a, b in itertools.pairwise(asked))),
    }


def _ms(seconds: float) -> float:
    return round(seconds * 1000.0, 2)


if __name__ == "__main__":
    main()
