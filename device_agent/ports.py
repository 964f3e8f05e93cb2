# SPDX-License-Identifier: Apache-2.0
"""What the agent needs of the world, as interfaces: real adapters in the field, in-process ones in a simulation."""

from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

from device_agent.core.evidence.labels import LabelMemory
from device_agent.core.evidence.silence import Exertion
from device_agent.core.life.record import DeviceRecord
from device_agent.core.orders.release_orders import Order, TargetFile
from device_agent.core.orders.software_orders import Here
from device_agent.core.orders.software_trial import SoftwareRecord
from device_agent.core.serving import AdmissionRequest, AdmissionVerdict, ModelRef, Report, ServingPlan
from device_agent.core.upkeep import UpkeepResult
from edgefleet.contracts.capture import CapturedInput
from edgefleet.contracts.messages import (
    Capabilities,
    Event,
    Gap,
    Hint,
    Message,
    RunningRelease,
    State,
    Telemetry,
    Watermark,
)


class Clock(Protocol):
    """Two clocks: Unix seconds for messages, and one that never jumps for durations."""

    def wall(self) -> float:
        """Return Unix seconds."""

    def monotonic(self) -> float:
        """Return seconds since some fixed moment."""


class StateStore(Protocol):
    """Keeps the one record; a save is durable when it returns."""

    def load(self) -> DeviceRecord | None:
        """Return the record, or None for a device that has none.

        Raises:
            StorageError: it is unreadable.
        """

    def save(self, record: DeviceRecord) -> None:
        """Replace the record durably.

        Raises:
            StorageError: it cannot be written.
        """

    def set_aside(self) -> Path:
        """Rename an unreadable record away and start an empty one; return the new name."""


class Slots(Protocol):
    """Content-addressed bundle files."""

    def path(self, bundle_sha256: str) -> Path:
        """Return where the bundle lies, or would lie."""

    def intact(self, bundle_sha256: str) -> bool:
        """Tell whether the bundle is there and has its hash."""

    def adopt(self, source: Path, bundle_sha256: str) -> Path:
        """Move a downloaded file into its slot, durably.

        Raises:
            BundleError: it has another hash.
            StorageError: it cannot be moved.
        """

    def mark_good(self, release: RunningRelease, *, counter: int, committed_at: float) -> None:
        """Note durably beside the slot that it was committed, for the day the record is unreadable."""

    def mark_bad(self, bundle_sha256: str) -> None:
        """Note durably that the bundle is in quarantine."""

    def unmark_bad(self, bundle_sha256: str) -> None:
        """Take the note away that the bundle is in quarantine."""

    def last_committed(self) -> tuple[tuple[RunningRelease, ...], int]:
        """Return the releases that the highest order's commit noted, and that order's counter; (), 0 without any."""

    def last_good(self) -> tuple[tuple[RunningRelease, ...], int]:
        """Return the last committed releases whose files still have their hashes, and their order's counter."""

    def bad(self) -> tuple[str, ...]:
        """Return the bundles noted as bad."""

    def keep_only(self, bundle_sha256s: Sequence[str]) -> None:
        """Delete the other bundles.

        Raises:
            StorageError: one cannot be deleted; the next call tries again.
        """


class Outbox(Protocol):
    """The durable queue of messages that the server has not stored yet."""

    @property
    def epoch(self) -> str:
        """The random number that this outbox got when it was made."""

    def append(self, body: Telemetry | Event | Gap, *, created_at: float) -> Message:
        """Store a message durably and return it with its key."""

    def after(self, sequence: int, limit: int) -> list[Message]:
        """Return up to ``limit`` messages with higher sequences, in order."""

    def gaps(self) -> list[Message]:
        """Return the gaps that wait, in order."""

    def acknowledge(self, epoch: str, sequence: int) -> None:
        """Send nothing up to a watermark of this epoch any more."""

    def acknowledged(self) -> int:
        """Return the highest watermark."""

    def rewind(self, sequence: int, *, created_at: float) -> int:
        """Let messages above ``sequence`` wait again, as the server has lost them; return how many do."""

    def evicted(self) -> int:
        """Return how many messages were evicted unacknowledged."""

    def depth(self) -> int:
        """Return how many messages wait."""


class Messenger(Protocol):
    """A connection to the broker that comes and goes; nothing here blocks.

    ``on_news`` is called, from any thread, when there is something to take, or the connection came or went.
    """

    on_news: Callable[[], None]

    @property
    def takeovers(self) -> int:
        """How often the broker gave this device's session to another connection since the start."""

    def incoming(self) -> Sequence[Watermark | Hint | Capabilities]:
        """Return what came since the last call."""

    @property
    def connection(self) -> int:
        """Number of the present connection, counted from 1; 0 while there is none."""

    def send(self, message: Message) -> None:
        """Hand a message over for sending; it may be lost."""

    def announce(self, state: State) -> None:
        """Set the retained state; it is published now and at each connect, with ``connected`` false as last will."""

    def close(self, farewell: State | None) -> None:
        """Publish the farewell state if there is a connection, and end it."""


#: The thread of a worker that answers applications and the agent.
MAIN_THREAD = 0


class Inference(Protocol):
    """The inference worker. Commands return at once; what became of them comes as reports."""

    def start(self) -> None:
        """Start a worker if none runs."""

    def serve(self, plan: ServingPlan) -> None:
        """Ask for a plan to be put in force."""

    def verify(self, model: ModelRef) -> None:
        """Ask for a verification by fresh inferences."""

    def collect(self) -> None:
        """Ask for the counts since the last time."""

    def reports(self) -> list[Report]:
        """Return the reports since the last call."""

    def kill(self, why: str, *, kind: Literal["hang", "unexplained"], during: str = "") -> None:
        """End a worker that does not answer; reported so, within a call of ``during`` where that is known."""

    def stop(self) -> None:
        """Let the worker end; its last counts are among the reports afterwards."""

    def rss_bytes(self) -> int:
        """Return the resident memory of the worker, 0 if unknown."""

    def exertion(self, thread: int | None = None) -> Exertion | None:
        """Return what the worker, or one thread of it, has done; None where there is no worker process."""

    def at_work(self) -> str:
        """Return the bundle that the worker loads or runs just now, as far as that is known."""


class Repositories(Protocol):
    """Both TUF repositories: what this device may run, and its files."""

    def check(self, seen_counter: int) -> Order:
        """Return the order that both repositories agree on.

        Raises:
            TrustRefusedError: the metadata or the order is refused, with a precise cause.
            UnreachableError: the server does not answer.
        """

    def fetch(self, target: TargetFile, cancelled: Callable[[], bool]) -> Path:
        """Return a complete file with the target's length and hash, resuming where an earlier call stopped.

        Raises:
            CorruptDownloadError: length or hash is wrong; the file was dropped.
            StorageError: the disk is full.
            UnreachableError: the server does not answer.
        """


class Holds(Protocol):
    """What applications say about when an update would disturb."""

    def reason(self, now: float) -> str:
        """Return why an application holds updates off at a time (Unix seconds); empty where none does."""


class OwnSoftware(Protocol):
    """The agent's own software: what runs, what is due at the next start, and installing another set."""

    @property
    def record(self) -> SoftwareRecord:
        """What the launcher will decide by."""

    @property
    def here(self) -> Here:
        """What runs, and on what."""

    def release_of(self, sha256: str) -> RunningRelease | None:
        """Return what a set that lies here is; None where there is none, or nobody noted it."""

    @property
    def startable(self) -> Mapping[str, RunningRelease | None]:
        """What could start here, by its set, and as which release if that is known; empty is the system's own."""

    def install(self, archive: Path, release: RunningRelease) -> None:
        """Verify, unpack and try a set, and let it be the one that starts next.

        Raises:
            SoftwareRefusedError: it is no set for this device, not the one that was signed, or does not run here.
            StorageError, ConflictError: not now.
        """

    def choose(self, sha256: str) -> None:
        """Let a set that lies here whole be the one that starts next.

        Raises:
            StorageError: it cannot be noted.
        """

    def lift(self, sha256s: Collection[str]) -> None:
        """Let sets be tried again that failed their trial.

        Raises:
            StorageError: it cannot be noted.
        """

    def without(self, sha256s: Collection[str]) -> SoftwareRecord:
        """Return what the launcher would decide by if these sets were forbidden."""

    def forbid(self, sha256s: Collection[str]) -> None:
        """Let sets (empty is the system's own) start no more where there is another.

        Raises:
            StorageError: it cannot be noted.
        """

    def give_up(self) -> None:
        """Let the active set start next: what runs is on trial, and does worse.

        Raises:
            StorageError: it cannot be noted.
        """


class Captures(Protocol):
    """Inputs of which a model was unsure, kept for the server."""

    def keep(self, captured: CapturedInput, now_s: float) -> bool:
        """Redact and store one input; False where it may not be kept. Raises OSError where the disk says no."""

    def deliver(self) -> None:
        """Hand what is stored to the server."""


class LabelStore(Protocol):
    """Keeps what is remembered of labels."""

    def load(self) -> LabelMemory:
        """Return what is remembered; nothing where it is damaged."""

    def save(self, memory: LabelMemory) -> None:
        """Replace it durably.

        Raises:
            StorageError: it cannot be written.
        """


class Admission(Protocol):
    """Runs the checks of a bundle before it may run."""

    def admit(self, request: AdmissionRequest) -> AdmissionVerdict:
        """Return the verdict; a child that dies or takes too long refuses."""


class Upkeep(Protocol):
    """Looks after the device's certificate, its board and its check-in."""

    def round(self) -> UpkeepResult:
        """Do what is due.

        Raises:
            EdgeFleetError: the round could not even begin.
        """


@dataclass(frozen=True)
class Ports:
    """Everything that an agent needs.

    Without ``upkeep`` nobody looks after its identity, without ``software`` no other is taken, and without
    ``labels`` those are forgotten with the process, as in a simulation.
    """

    clock: Clock
    state: StateStore
    slots: Slots
    outbox: Outbox
    messenger: Messenger
    inference: Inference
    repositories: Repositories
    admission: Admission
    holds: Holds
    executor: Executor
    random: Callable[[], float]
    boot_id: str
    upkeep: Upkeep | None = None
    captures: Captures | None = None
    software: OwnSoftware | None = None
    labels: LabelStore | None = None
