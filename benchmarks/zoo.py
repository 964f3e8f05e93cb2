# SPDX-License-Identifier: Apache-2.0
"""The zoo's kinds: how each bad model is made from a parent, how it is offered, and which cause tells of it.

The fourteen kinds of the table, and five that wait for an input. Each is offered to a real agent. A kind that ends or
holds the process that runs it goes to a device whose worker and admission child are processes.
"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks import deadly_models
from benchmarks.bad_models import EVERYWHERE, bad_model, fails_on_blank, hangs, hangs_on_blank
from benchmarks.zoo_device import Made, ZooDevice, pack, policy
from benchmarks.zoo_parents import DIGITS, Parent, digits
from benchmarks.zoo_worker import WorkedDevice
from device_agent.adapters.children.admission_process import AdmissionProcess
from edgefleet.contracts.messages import Event
from edgefleet.runtimes.litert import LiteRtInterpreter

Array = npt.NDArray[Any]
Picture = tuple[Array, int | None]
Where = Literal["admission", "shadow", "trial", "after commit", ""]
HONEST, OWN, UNPINNED = STANCES = ("honest vectors", "own vectors", "own vectors, nothing pinned")
_BUDGET_US = 2000
_ROUNDS = 60
_BATCH = 40
#: Of its own time an admission may take so much, and on a machine that has no time for it so much in all.
_ADMISSION_S, _STARVED_S = 5.0, 600.0
_BLANK = np.zeros((1, 8, 8, 1), np.float32)
#: What a model that was calibrated on inputs normalised a second time saw of them.
_TWICE = 255.0


class Outcome(NamedTuple):
    """What became of an update: the release that answers at the end, where it was decided, why, and what was told."""

    version: str
    kind: str
    cause: str
    detail: str
    alerts: int
    where: Where = ""


class Kind(NamedTuple):
    """A kind of bad model: how it is made, what tells of it, and what it is offered with.

    ``soft``: only what it answers is wrong; ``deadly``: it needs processes; ``waits`` for a blank frame, of which there
    are none before it ``commits``.
    """

    make: Callable[[Parent], bytes]
    causes: frozenset[str]
    soft: bool = False
    deadly: bool = False
    waits: bool = False
    commits: bool = False

    def stances(self, parent: Parent) -> tuple[str, ...]:
        """Return how it can be offered: where nothing live can be told of answers, only vectors do."""
        if self.deadly or self.waits:
            return (HONEST,)
        if not parent.acceptance:
            return (HONEST,) if self.soft else (HONEST, OWN)
        return STANCES


def _faulty(name: str) -> Callable[[Parent], bytes]:
    return lambda parent: bad_model(parent.model, EVERYWHERE[name], span=parent.span, common=parent.common)


def _with(fault: Callable[[Any], None]) -> Callable[[Parent], bytes]:
    return lambda parent: bad_model(parent.model, fault)


def _wrongly_calibrated(parent: Parent) -> bytes:
    return parent.int8(parent.calibration / np.float32(_TWICE))


_WRONG = {"parity-reference", "acceptance"}


def _soft(name: str, *live: str) -> Kind:
    return Kind(_faulty(name), frozenset(_WRONG | set(live)), soft=True)


_DEADLY = {"deadly": True}
KINDS: dict[str, Kind] = {
    "wrong calibration": Kind(
        _wrongly_calibrated,
        frozenset({"model-failed", "acceptance", "labels", "class-missing", "class-drift", "confidence"}),
        soft=True,
    ),
    "swapped labels": _soft("swapped labels", "labels", "class-missing", "class-drift"),
    "missing classes": _soft("missing classes", "labels", "class-missing"),
    "NaN": Kind(_faulty("NaN"), frozenset({"non-finite"})),
    "inf": Kind(_faulty("inf"), frozenset({"non-finite", "parity-reference"})),
    "wrong scale": _soft("wrong scale", "labels", "class-missing", "class-drift", "confidence"),
    "slow": Kind(_faulty("slow"), frozenset({"latency-budget"})),
    "memory leak": Kind(_with(deadly_models.leaks_a_little), frozenset({"memory-leak"}), **_DEADLY),
    "crash in load": Kind(_with(deadly_models.crash_in_load), frozenset({"crash"}), **_DEADLY),
    "crash in invoke": Kind(_with(deadly_models.crash_in_invoke), frozenset({"crash"}), **_DEADLY),
    "hang": Kind(_with(hangs), frozenset({"deadline"}), **_DEADLY),
    "bit flips": _soft("bit flips", "labels", "class-missing", "class-drift", "confidence", "non-finite"),
    "wrong preprocessing": _soft("wrong preprocessing", "labels", "class-missing", "class-drift", "confidence"),
    "undertrained": _soft("undertrained", "labels", "class-missing", "class-drift", "confidence"),
}
#: Kinds that a blank frame shows: they pass admission, and are for the digits.
WAITING: dict[str, Kind] = {
    "fails on blank": Kind(_with(fails_on_blank), frozenset({"failed-requests"}), waits=True),
    "NaN on blank": Kind(_with(deadly_models.nan_on_blank), frozenset({"non-finite"}), waits=True),
    "crash on blank": Kind(_with(deadly_models.crashes_on_blank), frozenset({"crash"}), waits=True, **_DEADLY),
    "hang on blank": Kind(_with(hangs_on_blank), frozenset({"hang"}), waits=True, **_DEADLY),
    "memory leak on blank": Kind(
        _with(deadly_models.leaks_on_blank), frozenset({"memory-leak"}), waits=True, commits=True, **_DEADLY
    ),
}


def kinds_of(parent: Parent) -> dict[str, Kind]:
    """Return the kinds that make sense of a parent."""
    left_out = set(why_not(parent))
    found = {name: kind for name, kind in KINDS.items() if name not in left_out}
    return found | WAITING if parent.name == "digits" else found


def why_not(parent: Parent) -> dict[str, str]:
    """Return the kinds that make no sense of a parent, and why."""
    if parent.quantized:
        return {
            "wrong calibration": "its authors publish no float form that could be calibrated",
            "NaN": "8-bit weights have none",
            "inf": "8-bit weights have none",
        }
    if parent.task == "anomaly":
        return dict.fromkeys(("swapped labels", "missing classes"), "its answers are no classes")
    return {}


class Zoo:
    """A parent, what it is asked about, and a die that falls the same way each time."""

    def __init__(self, parent: Parent | None = None, seed: int = 1) -> None:
        self.parent = parent or digits()
        self.v1, self.v5 = self.parent.model, (DIGITS / "v5_float32.tflite").read_bytes()
        self.pictures, self.labels = self.parent.inputs, self.parent.labels
        self.rng = np.random.default_rng(seed)

    def some(self, count: int = _BATCH, *, labelled: bool = False, classes: tuple[int, ...] = ()) -> list[Picture]:
        """Draw pictures."""
        among = np.flatnonzero(np.isin(self.labels, classes)) if classes else np.arange(len(self.labels))
        drawn = self.rng.choice(among, count)
        told = labelled and self.parent.task == "classification"
        return [(self._batch(self.pictures[at]), int(self.labels[at]) if told else None) for at in drawn]

    def _batch(self, picture: Array) -> Array:
        return picture[np.newaxis]

    def pack(self, model: bytes, version: str, **options: Any) -> Made:
        """Pack a model for the parent's inputs."""
        return pack(model, version, parent=self.parent, **options)

    def device(self, folder: Path, **ports: Any) -> ZooDevice:
        """Return a device that runs the first good release and knows how that answers."""
        return self.settled(ZooDevice(folder, **ports))

    def worked(self, folder: Path, *, admission: AdmissionProcess) -> WorkedDevice:
        """Return the same with a worker and an admission child of its own."""
        device = WorkedDevice(folder, admission=admission)
        self.settled(device)
        return device

    def settled(self, device: ZooDevice) -> ZooDevice:
        """Let a device commit the parent, and learn how it answers."""
        first = self.pack(self.v1, "1.0.0")
        device.shelf.put(first, policy(first, pinned=True, requests=20, minimum_s=device.minimum_s))
        until = 200
        while device.version != "1.0.0" and until:
            device.live(self.some(10))
            until -= 1
        for _ in range(8):
            device.live(self.some())
        return device


def bad(zoo: Zoo, name: str, stance: str) -> Outcome:
    """Offer a bad model, and let a device live until it has decided."""
    kind = (KINDS | WAITING)[name]
    model = kind.make(zoo.parent)
    honest = zoo.parent.int8(zoo.parent.calibration) if name == "wrong calibration" else zoo.parent.model
    budget = max(_BUDGET_US, 4 * _usual_us(zoo.parent)) if name == "slow" else None
    made = zoo.pack(model, "2.0.0", golden=honest if stance == HONEST else None, latency_p99_us=budget)
    with tempfile.TemporaryDirectory(prefix="zoo-") as folder:
        patient = AdmissionProcess(deadline_s=_ADMISSION_S, starved_s=_STARVED_S)
        device = zoo.worked(Path(folder), admission=patient) if kind.deadly else zoo.device(Path(folder))
        feed = _feed(zoo, kind, device)
        try:
            return update(device, made, pinned=stance != UNPINNED, feed=feed, past_commit=kind.commits)
        finally:
            device.stop(cleanly=True)


def _feed(zoo: Zoo, kind: Kind, device: ZooDevice) -> Callable[[], list[Picture]]:
    if kind.commits:  # what it needs to be told by comes up later
        return lambda: [(_BLANK, None)] * _BATCH if device.version == "2.0.0" else zoo.some()
    if kind.waits:
        return lambda: [*zoo.some(), (_BLANK, None)]
    return lambda: zoo.some(labelled=True)


def _usual_us(parent: Parent) -> int:
    """Return what an inference of the parent takes: the quickest of some."""
    import time

    interpreter, (one,) = LiteRtInterpreter(parent.model), parent.vectors(parent.model, 1)
    took = []
    for _ in range(10):
        began = time.perf_counter()
        interpreter.invoke([one])
        took.append(time.perf_counter() - began)
    return round(min(took) * 1e6)


def update(
    device: ZooDevice,
    made: Made,
    *,
    pinned: bool,
    feed: Callable[[], list[Picture]],
    between: Callable[[], None] = lambda: None,
    past_commit: bool = False,
) -> Outcome:
    """Order a release, and live until it is decided; ``between`` happens after each round."""
    told = len(device.events())
    device.shelf.put(made, policy(made, pinned=pinned, minimum_s=device.minimum_s))
    for _ in range(_ROUNDS):
        device.live(feed())
        between()
        if device.agent.status == "idle" and _decided(device.events()[told:], past_commit=past_commit):
            break
    return _outcome(device, device.events()[told:])


def _decided(events: list[Event], *, past_commit: bool) -> bool:
    ends = {"admission-refused", "rollback-verified", "safe-mode"} | (set() if past_commit else {"committed"})
    return any(event.kind in ends for event in events)


def _outcome(device: ZooDevice, events: list[Event]) -> Outcome:
    ends = [event for event in events if event.kind in ("committed", "admission-refused", "rolled-back")]
    last = ends[-1] if ends else None
    alerts = sum(event.kind == "input-changed" for event in events)
    kind, cause, detail = (last.kind, last.cause, last.detail) if last else ("undecided", "", "")
    return Outcome(device.version, kind, cause, detail, alerts, _where(events))


def _where(events: list[Event]) -> Where:
    """Return in which part of its life a release was left."""
    reached: Where = "admission"
    parts: dict[str, Where] = {"shadow-started": "shadow", "trial-started": "trial", "committed": "after commit"}
    for event in events:
        if event.kind == "rolled-back":
            break
        reached = parts.get(event.kind, reached)
    return reached
