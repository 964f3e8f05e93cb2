# SPDX-License-Identifier: Apache-2.0
"""A device for the zoo: the real agent, engine and admission in this process, under a clock that the zoo turns."""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.zoo_parents import DIGITS, Parent, digits
from device_agent.adapters.identity.data_folder import DataFolder, encode_identity
from device_agent.admission.checks import InProcessAdmission
from device_agent.core.identity import Identity
from device_agent.core.orders.release_orders import Order, TargetFile, Wanted
from device_agent.ports import Admission
from device_agent.settings import AgentSettings
from device_agent.wiring import assemble
from device_agent.worker.engine import Engine
from device_agent.worker.in_process import InProcessInference
from edgefleet.contracts import bundle as bundle_format
from edgefleet.contracts import manifest as m
from edgefleet.contracts.messages import Event, RunningRelease
from edgefleet.contracts.policy import AcceptancePin, DevicePolicy, ShadowRule, TrialRule
from edgefleet.runtimes.litert import LiteRtInterpreter
from edgefleet.runtimes.parity import difference

__all__ = ["COMPAT", "DIGITS", "PROFILE"]
Array = npt.NDArray[Any]
PROFILE, COMPAT = "linux-x86_64", "c" * 64
_SAMPLES = 8


class Made(NamedTuple):
    """A bundle, and what its product pins: the acceptance examples (none: empty) with the share to be right."""

    release: RunningRelease
    data: bytes
    acceptance_sha256: str
    minimum: float = 0.95


def pack(
    model: bytes,
    version: str,
    *,
    parent: Parent | None = None,
    golden: bytes | None = None,
    latency_p99_us: int | None = None,
    blank: bool = False,
) -> Made:
    """Pack a model for the inputs of ``parent`` (digits); its parity vectors are by default its own, else ``golden``'s.

    One may be ``blank``. With ``golden`` the model itself is not loaded here: there are some that no process survives.
    """
    parent = parent or digits()
    honest, usual = (LiteRtInterpreter(golden or model, kernels=kernels) for kernels in ("reference", "production"))
    inputs = parent.vectors(golden or model, _SAMPLES)
    if blank:
        inputs[-1] = np.zeros_like(inputs[-1])
    outputs, others = ([runs.invoke([one])[0] for one in inputs] for runs in (honest, usual))
    members = {
        "model/model.tflite": model,
        "golden/input.bin": np.concatenate(inputs).tobytes(),
        "golden/output.bin": np.concatenate(outputs).tobytes(),
        m.MODEL_CARD_PATH: f"# {parent.name}\n".encode(),
    }
    if parent.acceptance:
        members[m.ACCEPTANCE_PATH] = parent.acceptance
    sha256 = hashlib.sha256(parent.acceptance).hexdigest()
    quantized = honest.inputs[0].dtype == "int8"
    manifest = m.Manifest(
        format_version=1,
        name=parent.name.replace("_", "-"),
        version=version,
        task=parent.task,
        metric="accuracy" if parent.acceptance else "rank-correlation",
        precision="int8" if quantized else "float32",
        profile=m.ProfileReference(id=PROFILE, compat_hash=COMPAT),
        runtime=m.RuntimeRequirement(kind="litert", minimum_version="2.0.0", numerics="litert/1"),
        interface=m.Interface(inputs=honest.inputs, outputs=honest.outputs, labels=_labels(parent)),
        preprocessing=m.Preprocessing(),
        tolerances=_tolerances(outputs, others, quantized=quantized),
        budgets=m.Budgets(latency_p99_us=latency_p99_us),
        parity=m.ParityVectors(samples=_SAMPLES, inputs=("golden/input.bin",), outputs=("golden/output.bin",)),
        acceptance=_acceptance(parent, sha256),
        model="model/model.tflite",
        members=bundle_format.describe_members(members),
        lineage=m.Lineage(source_sha256="0" * 64, recipe_sha256="1" * 64),
    )
    data = bundle_format.pack(manifest, members)
    release = RunningRelease(name=manifest.name, version=version, bundle_sha256=hashlib.sha256(data).hexdigest())
    return Made(release, data, sha256 if parent.acceptance else "", parent.minimum)


def _labels(parent: Parent) -> tuple[str, ...]:
    return tuple(str(label) for label in range(parent.classes)) if parent.acceptance else ()


def _acceptance(parent: Parent, sha256: str) -> m.AcceptanceExamples | None:
    if not parent.acceptance:
        return None
    return m.AcceptanceExamples(
        path=m.ACCEPTANCE_PATH, sha256=sha256, samples=parent.examples, metric="accuracy", value=parent.minimum
    )


def _tolerances(reference: list[Array], production: list[Array], *, quantized: bool) -> m.Tolerances:
    """Return what a converter would measure: twice what kernels differ by, and a little."""
    worst = max(difference(a, b) for a, b in zip(reference, production, strict=True))
    apart = 2.0 * worst if np.isfinite(worst) else 0.0
    if quantized:
        return m.Tolerances(unit="lsb", reference=0.0, production=apart + 1.0)
    return m.Tolerances(unit="absolute", reference=1e-6, production=apart + 1e-3)


def policy(made: Made, *, pinned: bool, requests: int = 200, minimum_s: float = 60.0) -> DevicePolicy:
    """Return the rules of a release; ``pinned``: with the product's acceptance examples, if there are any."""
    pins = pinned and made.acceptance_sha256
    pin = AcceptancePin(sha256=made.acceptance_sha256, minimum=made.minimum) if pins else None
    trial = TrialRule(requests=requests, minimum_s=minimum_s, limit_s=86400.0)
    return DevicePolicy(acceptance=pin, shadow=ShadowRule(samples=100, limit_s=86400.0), trial=trial)


class TurnedClock:
    """Two clocks that stand until they are turned; ``offset_s`` is what the wall clock is wrong by."""

    def __init__(self) -> None:
        self.now_s, self.offset_s = 1000.0, 1.8e9

    def wall(self) -> float:
        """Return Unix seconds."""
        return self.now_s + self.offset_s

    def monotonic(self) -> float:
        """Return seconds since the start."""
        return self.now_s


class AtOnce(Executor):
    """Does what it is given before it returns."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Do it."""
        done: Future[Any] = Future()
        try:
            done.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  it is the future's to raise
            done.set_exception(error)
        return done


class Shelf:
    """Both repositories without a network: what is put on it is ordered."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.order = Order(0)

    def put(self, made: Made, rules: DevicePolicy) -> None:
        """Order a release."""
        (self._folder / made.release.bundle_sha256).write_bytes(made.data)
        target = TargetFile(f"{made.release.name}/{made.release.version}", made.release.bundle_sha256, len(made.data))
        self.order = Order(self.order.counter + 1, (Wanted(made.release, target, rules, COMPAT),))

    def check(self, seen_counter: int) -> Order:  # noqa: ARG002  the port's
        """Return the order."""
        return self.order

    def fetch(self, target: TargetFile, cancelled: Callable[[], bool]) -> Path:  # noqa: ARG002  the port's
        """Return a copy of the file, which may be moved."""
        copy = self._folder / f"{target.sha256}.fetched"
        copy.write_bytes((self._folder / target.sha256).read_bytes())
        return copy


class ZooDevice:
    """One device; :meth:`live` lets an application ask, give labels, and time pass.

    A trial takes ``minimum_s`` of its clock.
    """

    minimum_s = 60.0

    def __init__(self, folder: Path, *, admission: Admission | None = None) -> None:
        self.folder = DataFolder(folder / "device")
        self.folder.identity.parent.mkdir(parents=True)
        names = Identity(server_url="https://127.0.0.1:1", tenant="zoo", device="device-1", profile=PROFILE)
        self.folder.identity.write_bytes(encode_identity(names))
        self.shelf = Shelf(folder / "shelf")
        self.clock = TurnedClock()
        self.admission = admission or InProcessAdmission(busy=lambda: False)
        self._boots = 0
        self.start()

    def start(self) -> None:
        """Switch the device on."""
        self._boots += 1
        self.engine = Engine(random=lambda: 0.0, nonce=self._boots)
        settings = AgentSettings(poll_s=30.0, telemetry_s=1e6, compare_share=1.0, reserve_bytes=0)
        self.agent = assemble(
            self.folder,
            settings,
            inference=InProcessInference(self.engine),
            repositories=self.shelf,
            admission=self.admission,
            executor=AtOnce(),
            clock=self.clock,
            random_share=lambda: 0.5,
        )
        self.agent.start()

    def stop(self, *, cleanly: bool) -> None:
        """Switch the device off, or pull its battery."""
        if cleanly:
            self.agent.stop()

    def live(self, pictures: Iterable[tuple[Array, int | None]], seconds: float = 30.0) -> None:
        """Ask once for each picture, label those that have a label, and let time pass."""
        for picture, label in pictures:
            reply = self.engine.infer([picture])
            self.engine.settle()
            if label is not None and reply.status == "ok":
                self.engine.feedback(reply.request_id, str(label))
        self.clock.now_s += seconds
        self.agent.timers.sooner("collect", 0.0)
        for _ in range(3):
            self.agent.tick()

    @property
    def version(self) -> str:
        """The release that was last found good."""
        return ", ".join(member.release.version for member in self.agent.record.active)

    def events(self) -> list[Event]:
        """Return all events so far."""
        waiting = self.agent.ports.outbox.after(0, 100_000)
        return [message.body for message in waiting if isinstance(message.body, Event)]
