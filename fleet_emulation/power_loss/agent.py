# SPDX-License-Identifier: Apache-2.0
"""The real agent as a subject, and the oracle that is asked about its remains.

The oracle starts the agent on what is left, out of reach of its server, and demands:

1. A model answers whose bundle has its hash and meets its parity vectors: the old release or the new one.
2. Where the world was told that the update is committed, the new one is what answers.
3. Each message that was sent and that the server has not stored comes again as it was, no other message has its
   number, and no number is missing. The highest order that was told is remembered: an older one would be refused.
4. Back in reach of the server, the update is completed.
5. All but 3 hold where in addition the state database is gone: the marks beside the slots are enough to start again.
"""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.core.serving import ModelRef
from device_agent.worker.engine import verify
from edgefleet.contracts.canonical import sha256_file
from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.messages import Event, Gap, Message, RunningRelease, State
from fleet_emulation.live_stream import Frame, LiveStream
from fleet_emulation.power_loss.device import OneDevice, Promise

_TICKS = 400
#: Ticks that an agent gets until it has sent what its outbox holds.
_SETTLING_TICKS = 5
_NO_DATABASE = b"unreadable" * 100


@dataclass(frozen=True)
class AgentSubject:
    """An agent with two releases behind it (``first``, and ``old`` answers), and the order to run a third (``new``).

    ``template`` is its data folder, ``server`` the folder of its server; ``frames`` the file of :class:`LiveStream`.
    ``plant`` is called in the process of an update, to break something there; see :mod:`.plants`.
    """

    template: Path
    server: Path
    frames: Path
    first: RunningRelease
    old: RunningRelease
    new: RunningRelease
    plant: Callable[[], None] | None = None

    def prepare(self, folder: Path) -> None:
        """Copy the device as it was before its update."""
        shutil.copytree(self.template, folder, dirs_exist_ok=True)

    def update(self, folder: Path, promises: Path) -> None:
        """Run the update to its commit, and stop.

        Raises:
            EdgeFleetError: it is not committed.
        """
        if self.plant is not None:
            self.plant()
        device = OneDevice(folder, self._live(), server=self.server, promises=promises)
        until_idle_with(device, self.new)
        device.agent.stop()

    def examine(self, folder: Path, promises: Sequence[bytes]) -> list[str]:
        """Return what is wrong with the remains, by the rules at the top of this module."""
        told = read_promises(promises)
        bare = folder.with_name(f"{folder.name}.without-state")
        shutil.copytree(folder, bare)
        forget_state(bare)
        try:
            wrong = self._examine(folder, told, messages=True)
            return [*wrong, *(f"without its state: {what}" for what in self._examine(bare, told, messages=False))]
        finally:
            shutil.rmtree(bare)

    def examine_damaged(self, folder: Path, promises: Sequence[bytes]) -> list[str]:
        """Return what is wrong where a file was damaged: rules 1, 2 and 4, and no number is used twice.

        Without promises it may have gone back as far as to its first release.
        """
        told = read_promises(promises)
        return self._examine(folder, told, messages=False, known=(*(() if told else (self.first,)), self.old, self.new))

    def _examine(
        self,
        folder: Path,
        told: Sequence[Promise],
        *,
        messages: bool,
        known: tuple[RunningRelease, ...] = (),
    ) -> list[str]:
        try:
            return list(self._complaints(folder, told, known or (self.old, self.new), messages=messages))
        except EdgeFleetError as error:
            return [f"the agent does not start: {error.message}"]
        except Exception as error:  # noqa: BLE001  whatever it is, it is what this looks for
            return [f"the agent falls over: {error!r}"]

    def _complaints(
        self, folder: Path, told: Sequence[Promise], known: tuple[RunningRelease, ...], *, messages: bool
    ) -> Iterator[str]:
        device = OneDevice(folder, self._live())
        device.run(lambda: False, ticks=_SETTLING_TICKS)
        yield from self._wrong_answer(device, folder, told, known)
        if messages:
            yield from forgotten_order(told, device.agent.state(connected=True))
        try:
            device.reach(self.server)
            until_idle_with(device, self.new)
        except EdgeFleetError as error:
            yield error.message
        yield from wrong_numbers(told, device.broker.sent, damaged=not messages)
        if messages:
            yield from lost_messages(told, device.broker.sent)
        device.agent.stop()

    def _wrong_answer(
        self, device: OneDevice, folder: Path, told: Sequence[Promise], known: tuple[RunningRelease, ...]
    ) -> Iterator[str]:
        reply = device.infer()
        release = {f"{release.name} {release.version}": release for release in known}.get(reply.release)
        if reply.status != "ok" or release is None:
            yield f"no model answers: {reply.status} {reply.release} {reply.detail}"
            return
        slot = DataFolder(folder).slots / f"{release.bundle_sha256}.bundle"
        if not slot.exists() or sha256_file(slot) != release.bundle_sha256:
            yield f"{reply.release} answers, and its slot has not its hash"
        verified = verify(ModelRef(path=str(slot), release=release))
        if not verified.passed:
            yield f"{reply.release} answers, and does not pass its parity vectors: {verified.detail}"
        if release != self.new and was_told_committed(told, self.new):
            yield f"{reply.release} answers, and the world was told that {self.new.version} is committed"

    def _live(self) -> Iterator[Frame]:
        return iter(LiveStream(self.frames, seed=1, blank_share=0.0))


def until_idle_with(device: OneDevice, release: RunningRelease) -> None:
    """Let a device work until it is idle with a committed release.

    Raises:
        EdgeFleetError: it does not come to that.
    """

    def done() -> bool:
        state = device.agent.state(connected=True)
        return state.status == "idle" and state.running == release

    if not device.run(done, ticks=_TICKS):
        state = device.agent.state(connected=True)
        running = f"{state.running.name} {state.running.version}" if state.running else "nothing"
        raise EdgeFleetError(
            f"the update is not completed: the device is {state.status} with {running}", hint="see what it was told"
        )


def forget_state(folder: Path) -> None:
    """Make a device's state database unreadable."""
    state = DataFolder(folder).state
    for path in folder.glob(f"{state.name}*"):
        path.unlink()
    state.write_bytes(_NO_DATABASE)


def read_promises(lines: Sequence[bytes]) -> list[Promise]:
    """Return the promises of their lines."""
    return [msgspec.json.decode(line, type=Promise) for line in lines]


def was_told_committed(told: Sequence[Promise], release: RunningRelease) -> bool:
    """Tell whether the world could know that a release is committed."""
    return any(_commits(promise.sent, release) or _runs(promise.state, release) for promise in told)


def forgotten_order(told: Sequence[Promise], state: State) -> Iterator[str]:
    """Yield that an order, which the world was told to be known, is not known any more."""
    highest = max((promise.state.counter for promise in told if promise.state is not None), default=0)
    if state.counter < highest:
        yield f"the order {highest} was told, and the last one that is known is {state.counter}"


def wrong_numbers(told: Sequence[Promise], sent: Sequence[Message], *, damaged: bool = False) -> Iterator[str]:
    """Yield each message whose number an earlier, other message had.

    With ``damaged`` a gap may stand in a message's own place: it says that the message cannot be read any more, and a
    server that has the message takes it for the same one.
    """
    first = {(message.epoch, message.sequence): message for message in _sent(told)}
    for message in sent:
        before = first.setdefault((message.epoch, message.sequence), message)
        if before != message and not (damaged and _tells_of_damage(message)):
            yield f"the number {message.sequence} was used twice, for {_kind(before)} and for {_kind(message)}"


def lost_messages(told: Sequence[Promise], sent: Sequence[Message]) -> Iterator[str]:
    """Yield what was sent before, is not stored by the server, and did not come again; and each number left out."""
    stored = max((promise.stored for promise in told), default=0)
    again = {(message.epoch, message.sequence) for message in sent}
    for message in _sent(told):
        if message.sequence > stored and (message.epoch, message.sequence) not in again:
            yield f"the message {message.sequence} ({_kind(message)}) is lost"
    for epoch in {message.epoch for message in sent}:
        numbers = {sequence for other, sequence in again if other == epoch}
        if missing := sorted(set(range(min(numbers), max(numbers))) - numbers):
            yield f"no message has the numbers {missing}"


def _tells_of_damage(message: Message) -> bool:
    return isinstance(message.body, Gap) and message.body.first == message.body.last == message.sequence


def _sent(told: Sequence[Promise]) -> list[Message]:
    return [promise.sent for promise in told if promise.sent is not None]


def _commits(message: Message | None, release: RunningRelease) -> bool:
    body = message.body if message else None
    return isinstance(body, Event) and body.kind == "committed" and body.release == release


def _runs(state: State | None, release: RunningRelease) -> bool:
    return state is not None and state.status in ("committed", "idle") and state.running == release


def _kind(message: Message) -> str:
    return message.body.kind if isinstance(message.body, Event) else type(message.body).__name__.lower()
