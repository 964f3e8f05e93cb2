# SPDX-License-Identifier: Apache-2.0
"""The stories: what somebody does wrong, and what the agents and the server do about it.

Each story only causes something and then reads records until it can tell how it ended; none of them tells an agent
or the server what to do about the failure.
"""

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from edgefleet.contracts.errors import EdgeFleetError
from fleet_emulation.command import require
from fleet_emulation.demo.records import Records, StoryTimeoutError, devices_of, wait_for
from fleet_emulation.demo.releases import Workshop, start_rollout
from fleet_emulation.demo.report import StoryReport
from fleet_emulation.demo.stage import Stage
from fleet_emulation.stolen_server import StolenServer
from fleet_emulation.testbed import PRODUCT, TENANT
from fleet_server.api.documents import RolloutStatus
from fleet_server.core.rollouts.gate import Finding

_ROLLOUT_LIMIT_S = 240.0
_STORY_LIMIT_S = 120.0
_ENDED = ("completed", "rolled-back")
_ACCURACY_RULES = ("accuracy-drop", "disagreement")

Say = Callable[[str], None]


class Teller:
    """Tells the stories on one stage; ``say`` takes each sentence as it happens."""

    def __init__(self, stage: Stage, workshop: Workshop, say: Say) -> None:
        self._stage = stage
        self._workshop = workshop
        self._records = Records(stage)
        self._random = random.Random(stage.seed)
        self._say = say

    def first_release(self) -> float:
        """Bring 1.0.0 to every device, and return how many seconds the rollout took.

        Raises:
            EdgeFleetError: it did not reach them all.
        """
        self._workshop.wait_for_release("1.0.0")
        started = time.monotonic()
        rollout = self._roll_out("1.0.0")
        running = self._on_all("1.0.0", rollout)
        if rollout.state != "completed":
            raise EdgeFleetError(
                f"the first release ended as {rollout.state} ({rollout.cause})", hint="see the server's log with --keep"
            )
        self._say(f"1.0.0 runs on {len(running)} devices, after waves of {_percents(rollout)} with a gate behind each")
        return time.monotonic() - started

    def worse_on_live_data(self) -> StoryReport:
        """(a) 2.0.0 is faithful and worse on live data: only the fleet can see it."""
        self._workshop.wait_for_release("2.0.0")
        started = time.monotonic()
        began = time.time()
        self._say("2.0.0 passed every check before the fleet: it is faithful, and its exam lacks what it never learned")
        rollout = self._roll_out("2.0.0")
        broken = _broken(rollout)
        wave = [device.device for device in rollout.devices if device.assigned]
        self._soon("the wave's way back", lambda: set(wave) <= set(self._records.running("1.0.0")))
        back = set(self._records.running("1.0.0"))
        answered = devices_of(self._records.events(since=began, kind="trial-started"))
        as_told = (
            rollout.state == "rolled-back"
            and rollout.wave == 1
            and rollout.cause in _ACCURACY_RULES
            and bool(wave)
            and back.issuperset(wave)
        )
        return StoryReport(
            key="a",
            title="v2: faithful, worse on live data",
            caught_by=f"the gate, wave {rollout.wave} ({rollout.cause})",
            as_told=as_told,
            seconds=time.monotonic() - started,
            evidence=self._tell(
                *(finding.text for finding in broken),
                f"the wave was {len(wave)} of {rollout.covered} devices; {len(answered)} had it on trial",
                f"{len(back.intersection(wave))} of {len(wave)} of the wave's devices run 1.0.0 again",
            ),
        )

    def nan_on_some_inputs(self) -> StoryReport:
        """(b) 3.0.0 answers NaN when the camera sees nothing: the device goes back by itself."""
        self._workshop.wait_for_release("3.0.0")
        began = time.time()
        started = time.monotonic()
        self._say("3.0.0 is as accurate as 1.0.0, and divides by zero when a frame is blank")
        rollout = self._roll_out("3.0.0")
        self._soon("the others' way back", lambda: not self._records.running("3.0.0"))
        gone_back = self._records.events(since=began, kind="rolled-back", cause="non-finite")
        proved = self._records.events(since=began, kind="rollback-verified")
        proved_devices = set(devices_of(proved)) & set(devices_of(gone_back))
        seconds = [event.seconds for event in proved if event.device in proved_devices and event.seconds is not None]
        as_told = bool(proved_devices) and rollout.state == "rolled-back" and not self._records.running("3.0.0")
        return StoryReport(
            key="b",
            title="v3: NaN on some inputs only",
            caught_by="the device itself (trial)",
            as_told=as_told,
            seconds=max(seconds, default=time.monotonic() - started),
            evidence=self._tell(
                *(f"{event.device}: {event.detail or event.cause}" for event in gone_back[:2]),
                f"{len(proved_devices)} devices went back by themselves and proved 1.0.0 by a fresh inference",
                f"the rollout ended as {rollout.state} in wave {rollout.wave} ({rollout.cause})",
            ),
        )

    def one_signature_of_two(self) -> StoryReport:
        """(c) 4.0.0 has one signature of two, and the attacker has the whole server."""
        self._workshop.wait_for_release("4.0.0")
        asked = start_rollout(self._stage, "4.0.0")
        self._say(f"the server itself does not roll 4.0.0 out: {asked.error_message}")
        thief = StolenServer(self._stage.server_data / "fleet.db", self._stage.server_data / "signer", TENANT)
        everyone = {record.name for record in self._records.devices()}
        began, started = time.time(), time.monotonic()
        signatures = thief.publish_half_signed(PRODUCT, "4.0.0")
        ordered = thief.order_everyone(PRODUCT, "4.0.0")
        thief.wake_everyone(self._stage.broker_port)
        self._say(
            f"a thief of the server serves 4.0.0 with {signatures} signature(s) and orders {ordered} devices to run it"
        )

        def all_refused() -> list[str] | None:
            refused = devices_of(self._records.events(since=began, kind="update-refused", cause="metadata-unsigned"))
            return refused if everyone.issubset(refused) else None

        refused = wait_for("every device to refuse 4.0.0", all_refused, limit_s=_STORY_LIMIT_S)
        seconds = time.monotonic() - started
        installed = self._records.running("4.0.0")
        self._stage.stop_server()
        thief.clean_up()
        self._stage.start_server()
        return StoryReport(
            key="c",
            title="v4: signed by one key of two",
            caught_by="every device (TUF threshold)",
            as_told=asked.status != 0 and not installed and len(refused) == len(everyone),
            seconds=seconds,
            evidence=self._tell(
                f"{len(refused)} of {len(everyone)} devices refused the metadata; {len(installed)} installed it"
            ),
        )

    def flipped_byte_and_good_release(self) -> tuple[StoryReport, StoryReport]:
        """(d) A byte flips in what devices download; then 5.0.0, a good release, reaches all."""
        self._workshop.release_ahead("5.0.0")
        self._workshop.wait_for_release("5.0.0")
        began = time.time()
        file = _served_file(self._stage, "5.0.0")
        started = time.monotonic()
        with _flipped_byte(file, self._random):
            rollout_id = str(require(start_rollout(self._stage, "5.0.0"))["id"])
            self._say("a bit of 5.0.0 rots on the server's disk while the first devices fetch it")
            wait_for(
                "a device to refuse the download",
                lambda: self._records.events(since=began, kind="download-corrupt"),
                limit_s=_STORY_LIMIT_S,
            )
        rollout = self._ended(rollout_id)
        corrupt = devices_of(self._records.events(since=began, kind="download-corrupt"))
        running = self._on_all("5.0.0", rollout)
        verified = [e for e in self._records.events(since=began, kind="verified") if e.device in corrupt]
        healed = set(devices_of(verified)) & set(running)
        first = min((event.received_at for event in verified), default=time.time())
        flipped = StoryReport(
            key="d",
            title="a byte flipped in a download",
            caught_by="the device (SHA-256), fetched again",
            as_told=bool(corrupt) and healed.issuperset(corrupt),
            seconds=first - began,
            evidence=self._tell(f"{', '.join(corrupt)} refused the file, fetched it again and run 5.0.0"),
        )
        good = StoryReport(
            key="good",
            title="v5: a good release",
            caught_by=f"nobody: all gates passed ({_percents(rollout)})",
            as_told=rollout.state == "completed" and len(running) == rollout.covered,
            seconds=time.monotonic() - started,
            evidence=self._tell(f"5.0.0 runs on {len(running)} of {rollout.covered} devices"),
        )
        return flipped, good

    def _roll_out(self, version: str) -> RolloutStatus:
        return self._ended(str(require(start_rollout(self._stage, version))["id"]))

    def _ended(self, rollout_id: str) -> RolloutStatus:
        def look() -> RolloutStatus | None:
            rollout = self._records.rollout(rollout_id)
            return rollout if rollout.state in _ENDED else None

        return wait_for(f"the rollout {rollout_id} to end", look, limit_s=_ROLLOUT_LIMIT_S)

    def _soon(self, what: str, look: Callable[[], object]) -> None:
        """Wait until something is so, or for long: a rollout ends on evidence enough, and the last devices follow."""
        with suppress(StoryTimeoutError):
            wait_for(what, look, limit_s=_STORY_LIMIT_S)

    def _on_all(self, version: str, rollout: RolloutStatus) -> list[str]:
        """Return the devices that run a version, when all do that a completed rollout covers."""
        if rollout.state == "completed":
            self._soon(f"{version} on all devices", lambda: len(self._records.running(version)) >= rollout.covered)
        return self._records.running(version)

    def _tell(self, *sentences: str) -> tuple[str, ...]:
        for sentence in sentences:
            self._say(sentence)
        return sentences


def _broken(rollout: RolloutStatus) -> list[Finding]:
    findings = rollout.verdict.findings if rollout.verdict else ()
    return [finding for finding in findings if finding.outcome == "broken"]


def _percents(rollout: RolloutStatus) -> str:
    return ", ".join(f"{percent:.0f} %" for percent in rollout.wave_percents)


def _served_file(stage: Stage, version: str) -> Path:
    """Return the bundle as the server keeps it for downloads."""
    folder = stage.server_data / "targets" / PRODUCT / version
    return next(iter(sorted(folder.glob("*.bundle"))))


@contextmanager
def _flipped_byte(file: Path, chance: random.Random) -> Iterator[None]:
    """Flip one random byte of a file while the block runs."""
    position, flip = chance.randrange(file.stat().st_size), chance.randrange(1, 256)
    _flip(file, position, flip)
    try:
        yield
    finally:
        _flip(file, position, flip)


def _flip(file: Path, position: int, flip: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(position)
        byte = stream.read(1)[0]
        stream.seek(position)
        stream.write(bytes([byte ^ flip]))
