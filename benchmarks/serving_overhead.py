# SPDX-License-Identifier: Apache-2.0
"""What the agent adds to an inference: in the process itself, and through the worker.

    python -m benchmarks.serving_overhead [--rounds 30] [--calls 200]

The baseline, in the same run, is the interpreter's bare ``invoke()`` on the same tensors. Turns of all four are taken
round by round: bare, preprocessing and bare, the whole path in this process (which also hands tensors over, checks,
counts, reads and remembers the answer), and the whole path through a worker process with its Python client.
``in_process_adds`` is the third less the second, ``worker_adds`` the fourth less the third. ``paced`` asks through the
worker 100 times a second, when nobody watches the shared memory any more and each side has to be woken.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import write
from benchmarks.serving_models import ServedModel, served_models
from device_agent.adapters.local_socket import listen
from device_agent.adapters.worker_process import WorkerProcess
from device_agent.client import InferenceClient
from device_agent.core.serving import Serving, ServingPlan, plan_for
from device_agent.worker.engine import Engine
from edgefleet.contracts.bundle import open_bundle

_START_LIMIT_S = 30.0
_PACE_S = 0.01


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as name:
        models = {model.name: _measured(Path(name), model, options) for model in served_models(Path(name))}
    write(
        "serving_overhead",
        {
            "baseline": "the interpreter's bare invoke() on the same tensors, in the same run",
            "calls": options.rounds * options.calls,
            "models": models,
        },
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--calls", type=int, default=200)
    return parser.parse_args()


def _measured(folder: Path, model: ServedModel, options: argparse.Namespace) -> dict[str, Any]:
    engine = Engine(random=lambda: 1.0, nonce=1)
    plan = plan_for(1, good=(model.ref,))
    assert isinstance(engine.serve(plan), Serving)
    resident = engine.resident()
    assert resident is not None
    bare = _bare(model, resident.prepare([model.raw]))
    with _Worker(folder / f"{model.name}.sock", plan) as client:
        seconds = _rounds(
            {
                "bare": bare,
                "preprocessing_and_bare": lambda: (resident.prepare([model.raw]), bare()),
                "in_process": lambda: engine.infer([model.raw]),
                "worker": lambda: client.infer(model.raw),
            },
            options.rounds,
            options.calls,
        )
        paced = _timed(lambda: client.infer(model.raw), options.calls, pace_s=_PACE_S)
    p50 = {name: _percentile(values, 0.5) for name, values in seconds.items()}
    p99 = {name: _percentile(values, 0.99) for name, values in seconds.items()}
    added = statistics.median(
        _percentile(whole, 0.5) - _percentile(without, 0.5)
        for whole, without in zip(
            *(_parts(seconds[name], options.rounds) for name in ("in_process", "preprocessing_and_bare")), strict=True
        )
    )
    return {
        "p50_us": {name: _us(value) for name, value in p50.items()},
        "p99_us": {name: _us(value) for name, value in p99.items()},
        "in_process_adds_us": _us(added),
        "in_process_adds_ratio": round(added / p50["bare"], 4),
        "worker_adds_p50_us": _us(p50["worker"] - p50["in_process"]),
        "worker_adds_p99_us": _us(p99["worker"] - p99["in_process"]),
        "paced_p50_us": _us(_percentile(paced, 0.5)),
        "paced_p99_us": _us(_percentile(paced, 0.99)),
    }


def _bare(model: ServedModel, tensors: Sequence[Any]) -> Callable[[], Any]:
    """Return the ``invoke`` of an interpreter that holds the tensors, as any program would use it."""
    from ai_edge_litert.interpreter import Interpreter

    bundle = open_bundle(Path(model.ref.path))
    interpreter = Interpreter(model_content=bundle.read(bundle.manifest.model), num_threads=1)
    interpreter.allocate_tensors()
    for detail, tensor in zip(interpreter.get_input_details(), tensors, strict=True):
        interpreter.set_tensor(detail["index"], tensor)
    return interpreter.invoke  # type: ignore[no-any-return]  # LiteRT is untyped


class _Worker:
    """A worker process with one plan in force, and a client of it."""

    def __init__(self, path: Path, plan: ServingPlan) -> None:
        self._listener = listen(path)
        self._process = WorkerProcess(self._listener, readable=[path.parent])
        self._process.start()
        self._process.serve(plan)
        self._client = InferenceClient(path)

    def __enter__(self) -> InferenceClient:
        until = time.monotonic() + _START_LIMIT_S
        while not self._process.reports():
            assert time.monotonic() < until, "the worker does not start"
            time.sleep(0.01)
        return self._client

    def __exit__(self, *_: object) -> None:
        self._client.close()
        self._process.stop()
        self._listener.close()


def _rounds(ways: dict[str, Callable[[], Any]], rounds: int, calls: int) -> dict[str, list[float]]:
    for way in ways.values():
        _timed(way, calls)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            seconds[name] += _timed(way, calls)
    return seconds


def _timed(way: Callable[[], Any], calls: int, *, pace_s: float = 0.0) -> list[float]:
    seconds = []
    for _ in range(calls):
        if pace_s:
            time.sleep(pace_s)
        started = time.perf_counter()
        way()
        seconds.append(time.perf_counter() - started)
    return seconds


def _parts(values: Sequence[float], count: int) -> list[Sequence[float]]:
    size = len(values) // count
    return [values[at : at + size] for at in range(0, len(values), size)]


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def _us(seconds: float) -> float:
    return round(seconds * 1e6, 2)


if __name__ == "__main__":
    if hasattr(os, "sched_getaffinity"):
        print(f"{len(os.sched_getaffinity(0))} processors", flush=True)
    main()
