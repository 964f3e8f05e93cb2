# SPDX-License-Identifier: Apache-2.0
"""What the agent adds to an inference: in the process itself, and through the worker.

    python -m benchmarks.serving_overhead [--rounds 600] [--turn 10] [--shifts 30]

The baseline, in the same run, is the interpreter's bare ``invoke()`` on the same tensors. All ways take turns of a few
calls, round by round and in a random order, so that they share what else happens on the machine:

- ``bare``: ``invoke()`` alone; ``prepared_and_bare``: what the bundle's preprocessing says, and then ``invoke()``
- ``least_use``: what every program has to do that uses the runtime's public functions: the preprocessing,
  ``set_tensor()``, ``invoke()``, ``get_tensor()``
- ``in_process``: the whole path in this process, which hands tensors over, checks, counts, reads and remembers
- ``worker``: the whole path through a worker process with its Python client

The first call of each turn is counted apart (``woken``): its way's memory is cold. ``in_process`` and ``worker`` take
turns of :data:`_SHIFT` calls as well, of which the first :data:`_SETTLING` are counted apart: a processor that slept is
slow for more than a call. What is added is the difference of calls at the same place of the same round: ``in_process``
less ``prepared_and_bare`` (and less ``least_use``), and ``worker`` less ``in_process``, of the long turns.
``settled_later`` is what an answer costs after it was given: sorting its note into counts, and the companion's
inference where its input is drawn for comparison. ``paced`` asks through the worker 100 times a second, when nobody
watches the shared memory any more and each side has to be woken.

On a machine that has other work, ``chrt -f 10`` in front keeps that from being measured; ``scheduled`` tells it.
"""

import argparse
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import write
from benchmarks.serving_models import ServedModel, served_models
from device_agent.adapters.children.worker_process import WorkerProcess
from device_agent.adapters.system.local_socket import listen
from device_agent.client import InferenceClient
from device_agent.core.serving import PlannedModel, Serving, ServingPlan, plan_for
from device_agent.worker.engine import Engine
from edgefleet.contracts.bundle import open_bundle

_START_LIMIT_S = 30.0
_PACE_S = 0.01
_PACED_CALLS = 200
#: Calls of a long turn, and how many of these come before a processor that slept is as fast as it gets.
_SHIFT, _SETTLING = 200, 50
_NOTED = 1000
#: The acceptance lines: seconds or a share of the bare call, a share of one of a millisecond or more, and the worker's.
_LINE_S, _LINE_SHARE, _LONG_S, _LINE_SHARE_OF_LONG = 2e-6, 0.03, 1e-3, 0.005
_WORKER_P50_LINE_S, _WORKER_P99_LINE_S = 10e-6, 50e-6


def main() -> None:
    options = _options()
    with tempfile.TemporaryDirectory(prefix="edgefleet-bench-") as name:
        models = {model.name: _measured(Path(name), model, options) for model in served_models(Path(name))}
    write(
        "serving_overhead",
        {
            "baseline": "the interpreter's bare invoke() on the same tensors, in the same run",
            "calls": options.rounds * (options.turn - 1),
            "scheduled": "first in, first out" if os.sched_getscheduler(0) == os.SCHED_FIFO else "with all others",
            "models": models,
        },
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=600)
    parser.add_argument("--turn", type=int, default=10)
    parser.add_argument("--shifts", type=int, default=30)
    return parser.parse_args()


def _measured(folder: Path, model: ServedModel, options: argparse.Namespace) -> dict[str, Any]:
    engine = Engine(random=lambda: 1.0, nonce=1)
    plan = plan_for(1, good=(model.ref,))
    assert isinstance(engine.serve(plan), Serving)
    resident = engine.resident()
    assert resident is not None
    bare, through_tensors = _bare(model, resident.prepare([model.raw]))
    with _Worker(folder / f"{model.name}.sock", plan) as client:
        ways = {
            "bare": bare,
            "prepared_and_bare": lambda: (resident.prepare([model.raw]), bare()),
            "least_use": lambda: through_tensors(resident.prepare([model.raw])),
            "in_process": lambda: engine.infer([model.raw]),
        }
        woken, seconds = _rounds(ways, options.rounds, options.turn)
        apart = {"in_process": ways["in_process"], "worker": lambda: client.infer(model.raw)}
        settling, steady = _rounds(apart, options.shifts, _SHIFT, _SETTLING)
        paced = _paced(apart["worker"])
    return {
        **_percentiles("", seconds),
        **_percentiles("woken_", woken),
        **_percentiles("steady_", steady),
        **_percentiles("settling_", settling),
        **_added(seconds),
        "worker_adds_us": _worker_adds(steady),
        "settled_later_us": _settled_later(model),
        "paced_p50_us": _us(_percentile(paced, 0.5)),
        "paced_p99_us": _us(_percentile(paced, 0.99)),
    }


def _added(seconds: dict[str, list[float]]) -> dict[str, Any]:
    bare_s = _percentile(seconds["bare"], 0.5)
    line_s = _LINE_SHARE_OF_LONG * bare_s if bare_s >= _LONG_S else max(_LINE_S, _LINE_SHARE * bare_s)
    in_process = _differences(seconds, "in_process", "prepared_and_bare")
    least_use = _differences(seconds, "in_process", "least_use")
    added_s = _percentile(in_process, 0.5)
    return {
        "in_process_adds_us": {**_both(in_process), "line": _us(line_s), "kept": added_s <= line_s},
        "in_process_adds_ratio": round(added_s / bare_s, 4),
        "over_least_use_us": {**_both(least_use), "kept": _percentile(least_use, 0.5) <= line_s},
        "over_invoke_alone_us": _both(_differences(seconds, "in_process", "bare")),
    }


def _worker_adds(steady: dict[str, list[float]]) -> dict[str, Any]:
    added = _differences(steady, "worker", "in_process")
    p50_s = _percentile(added, 0.5)
    p99_s = _percentile(steady["worker"], 0.99) - _percentile(steady["in_process"], 0.99)
    kept = p50_s <= _WORKER_P50_LINE_S and p99_s <= _WORKER_P99_LINE_S
    return {**_both(added), "of_p99s": _us(p99_s), "kept": kept}


def _percentiles(when: str, seconds: dict[str, list[float]]) -> dict[str, dict[str, float]]:
    return {
        f"{when}p{percent}_us": {name: _us(_percentile(values, percent / 100)) for name, values in seconds.items()}
        for percent in (50, 99)
    }


def _differences(seconds: dict[str, list[float]], whole: str, part: str) -> list[float]:
    return [one - other for one, other in zip(seconds[whole], seconds[part], strict=True)]


def _both(seconds: Sequence[float]) -> dict[str, float]:
    return {"p50": _us(_percentile(seconds, 0.5)), "p99": _us(_percentile(seconds, 0.99))}


def _settled_later(model: ServedModel) -> dict[str, float]:
    """Return what an answer costs after it was given: its note, and a companion's look at its input."""
    engine = Engine(random=lambda: 0.0, nonce=1)
    engine.serve(plan_for(1, good=(model.ref,)))
    notes = []
    for _ in range(5):
        for _ in range(_NOTED):
            engine.infer([model.raw])
        notes += [each / _NOTED for each in _timed(engine.collect, 1)]
    beside = PlannedModel(primary=model.ref, companion=model.ref, companion_role="shadow", share=1.0)
    engine.serve(ServingPlan(number=2, models=(beside,)))
    compared = []
    for _ in range(_NOTED // 10):
        engine.infer([model.raw])
        compared += _timed(engine.settle, 1)
    return {"note": _us(statistics.median(notes)), "comparison": _us(statistics.median(compared))}


def _bare(model: ServedModel, tensors: Sequence[Any]) -> tuple[Callable[[], Any], Callable[[Sequence[Any]], Any]]:
    """Return the ``invoke`` of an interpreter that holds the tensors, and what sets, invokes and gets."""
    from ai_edge_litert.interpreter import Interpreter

    bundle = open_bundle(Path(model.ref.path))
    interpreter = Interpreter(model_content=bundle.read(bundle.manifest.model), num_threads=1)
    interpreter.allocate_tensors()
    given = [detail["index"] for detail in interpreter.get_input_details()]
    wanted = [detail["index"] for detail in interpreter.get_output_details()]

    def through_tensors(values: Sequence[Any]) -> list[Any]:
        for index, value in zip(given, values, strict=True):
            interpreter.set_tensor(index, value)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in wanted]

    through_tensors(tensors)
    return interpreter.invoke, through_tensors


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


def _rounds(
    ways: dict[str, Callable[[], Any]], rounds: int, turn: int, apart: int = 1
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return the seconds of each way's first calls of a turn (``apart``), and of its others, in the order of rounds."""
    for way in ways.values():
        _timed(way, 200)
    woken: dict[str, list[float]] = {name: [] for name in ways}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    order = random.Random(5)
    for _ in range(rounds):
        for name in order.sample(list(ways), len(ways)):
            timed = _timed(ways[name], turn)
            woken[name] += timed[:apart]
            seconds[name] += timed[apart:]
    return woken, seconds


def _timed(way: Callable[[], Any], calls: int) -> list[float]:
    seconds = []
    for _ in range(calls):
        started = time.perf_counter()
        way()
        seconds.append(time.perf_counter() - started)
    return seconds


def _paced(way: Callable[[], Any]) -> list[float]:
    seconds = []
    for _ in range(_PACED_CALLS):
        time.sleep(_PACE_S)
        seconds += _timed(way, 1)
    return seconds


def _percentile(values: Sequence[float], share: float) -> float:
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def _us(seconds: float) -> float:
    return round(seconds * 1e6, 2)


if __name__ == "__main__":
    if hasattr(os, "sched_getaffinity"):
        print(f"{len(os.sched_getaffinity(0))} processors", flush=True)
    main()
