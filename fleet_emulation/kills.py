# SPDX-License-Identifier: Apache-2.0
"""``kill -9`` at random moments: of a real agent during an update, and of the server during a rollout.

What counts is read from the records of both sides: the agent's state, slots and outbox, the server's database, the
signer's journal. The moments come from a seeded generator, so that a run can be told again.
"""

import contextlib
import os
import random
import signal
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec

from device_agent.adapters.storage.state_file import read_record
from device_agent.client import InferenceClient, RawTensor
from edgefleet.contracts.canonical import sha256_file
from edgefleet.contracts.errors import UnreachableError
from edgefleet.contracts.manifest import Fact
from fleet_emulation.listeners import with_descendants
from fleet_emulation.live_stream import LiveStream
from fleet_emulation.rehearsal import Rehearsal, wait_until
from fleet_emulation.testbed import RealAgent, Testbed
from fleet_server.signer.journal import AssignmentSigned, Record

Victim = Literal["supervisor", "worker", "both"]
VICTIMS: tuple[Victim, ...] = ("supervisor", "worker", "both")
_WORKER = b"device_agent.worker.main"
_BACK_LIMIT_S = 120.0
_CAUGHT_UP_LIMIT_S = 120.0


class AgentKill(Fact, frozen=True, kw_only=True):
    """One kill of an agent: when, what it was doing, and how it came back.

    ``answer`` is the first answer's status, by the release ``answered_by``, ``back_s`` after the kill; ``verified``
    tells whether that release is a good one or the candidate on trial, in a slot with its hash. ``cause`` is the rule
    that ended the ``rollout``, where one did. ``messages`` are those of the outbox since it was made, ``lost`` those of
    them that the server does not have.
    """

    victim: Victim
    after_s: float
    status: str
    answer: str
    answered_by: str
    back_s: float
    verified: bool
    rollout: str
    cause: str | None
    messages: int
    lost: int
    epochs: int

    @property
    def survived(self) -> bool:
        """Tell whether this kill did what a kill may do: nothing."""
        return (
            self.answer == "ok"
            and self.verified
            and self.rollout == "completed"
            and self.lost == 0
            and self.epochs == 1
        )


class ServerKill(Fact, frozen=True, kw_only=True):
    """One kill of the server: when, in which wave, and how the rollout ended."""

    after_s: float
    state: str
    wave: int
    down_s: float
    rollout: str


class OutboxFacts(NamedTuple):
    """What an agent's outbox says of itself, read in one transaction."""

    epoch: str
    last_sequence: int


def kill_agent(rehearsal: Rehearsal, number: int, *, victim: Victim, after_s: float) -> AgentKill:
    """Start an update, kill the agent's process or processes in the middle of it, and see how it comes back.

    Raises:
        EdgeFleetError: the agent did not answer again, or the rollout did not end, in time.
    """
    bed = rehearsal.bed
    rollout_id = rehearsal.start_rollout()
    time.sleep(after_s)
    agent = bed.agents[number]
    record = read_record(agent.files.state)
    _kill(agent, victim)
    killed = time.monotonic()
    if victim != "worker":
        agent = bed.restart_agent(number)
    status, release = _first_answer(agent, LiveStream(bed.examples / "digits.npz", seed=0))
    back_s = time.monotonic() - killed
    verified = _is_verified(agent, release)
    ended = rehearsal.wait_for_end(rollout_id)
    outbox = wait_until(lambda: _caught_up(bed, agent), "the server's watermark", limit_s=_CAUGHT_UP_LIMIT_S)
    return AgentKill(
        victim=victim,
        after_s=round(after_s, 3),
        status=record.status if record else "idle",
        answer=status,
        answered_by=release,
        back_s=round(back_s, 3),
        verified=verified,
        rollout=ended["state"],
        cause=ended.get("cause"),
        messages=outbox.last_sequence,
        lost=len(missing_messages(bed, agent.device, outbox)),
        epochs=_epochs(bed, agent.device),
    )


def kill_server(rehearsal: Rehearsal, *, after_s: float) -> ServerKill:
    """Start a rollout, kill the server in the middle of it, start it again at once, and see how the rollout ends.

    Raises:
        EdgeFleetError: the server did not start again, or the rollout did not end in time.
    """
    bed = rehearsal.bed
    rollout_id = rehearsal.start_rollout()
    time.sleep(after_s)
    with _reading(bed.database) as rows:
        state, wave = rows.execute("SELECT state, wave FROM rollout WHERE id = ?", (rollout_id,)).fetchone()
    killed = time.monotonic()
    bed.kill_server()
    bed.start_server()
    down_s = time.monotonic() - killed
    ended = rehearsal.wait_for_end(rollout_id)
    return ServerKill(
        after_s=round(after_s, 3), state=state, wave=wave + 1, down_s=round(down_s, 3), rollout=ended["state"]
    )


def moments(seed: int, count: int, *, within_s: float) -> list[float]:
    """Return random moments in an update that takes ``within_s`` seconds, in no order."""
    chance = random.Random(seed)
    return [chance.uniform(0.0, within_s) for _ in range(count)]


def undisturbed_s(rehearsal: Rehearsal) -> float:
    """Roll the next release out without disturbance, and return how long it took."""
    started = time.monotonic()
    rehearsal.wait_for_end(rehearsal.start_rollout())
    return time.monotonic() - started


def missing_messages(bed: Testbed, device: str, outbox: OutboxFacts) -> list[int]:
    """Return the sequences of an outbox that the server neither has nor was told to be evicted."""
    key = (device, outbox.epoch)
    with _reading(bed.database) as rows:
        stored = {row[0] for row in rows.execute("SELECT sequence FROM message WHERE device = ? AND epoch = ?", key)}
        gaps = rows.execute("SELECT first, last FROM outbox_gap WHERE device = ? AND epoch = ?", key).fetchall()
    for first, last in gaps:
        stored.update(range(first, last + 1))
    return [sequence for sequence in range(1, outbox.last_sequence + 1) if sequence not in stored]


def lost_rollouts(rehearsal: Rehearsal) -> list[str]:
    """Return the rollouts that were started and are not in the server's database as ended."""
    with _reading(rehearsal.bed.database) as rows:
        ended = {row[0] for row in rows.execute("SELECT id FROM rollout WHERE ended_at IS NOT NULL")}
    return [rollout_id for rollout_id in rehearsal.rollouts if rollout_id not in ended]


def orders_given_twice(bed: Testbed) -> list[str]:
    """Return each counter of a device under which more than one release was ordered, in anybody's records.

    Three records are put together: the assignments in the database, what the signer says that it signed, and the
    releases that the devices named with the counter in their events.
    """
    ordered: dict[tuple[str, int], set[str]] = defaultdict(set)
    for device, counter, version in [*_assigned(bed), *_signed(bed), *_accepted(bed)]:
        ordered[(device, counter)].add(version)
    return [
        f"{device} counter {counter}: {', '.join(sorted(versions))}"
        for (device, counter), versions in sorted(ordered.items())
        if len(versions) > 1
    ]


def worker_pid(agent: RealAgent) -> int | None:
    """Return the process id of an agent's inference worker, None while none runs."""
    for pid in with_descendants([agent.program.pid]):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # it ended meanwhile
        if _WORKER in words:
            return pid
    return None


def read_outbox(agent: RealAgent) -> OutboxFacts:
    """Read an agent's outbox beside the running agent."""
    with _reading(agent.files.outbox) as rows:
        return OutboxFacts(*rows.execute("SELECT epoch, last_sequence FROM outbox").fetchone())


def _kill(agent: RealAgent, victim: Victim) -> None:
    if victim != "supervisor":
        pid = wait_until(lambda: worker_pid(agent), "a worker to kill", limit_s=_BACK_LIMIT_S)
        with contextlib.suppress(ProcessLookupError):  # an update may end a worker by itself
            os.kill(pid, signal.SIGKILL)
    if victim != "worker":
        agent.program.kill()


def _first_answer(agent: RealAgent, stream: LiveStream) -> tuple[str, str]:
    """Return the status and the release of the first answer, whatever it says."""
    frame = next(iter(stream))
    deadline = time.monotonic() + _BACK_LIMIT_S
    while True:
        try:
            with InferenceClient(agent.socket, timeout_s=_BACK_LIMIT_S) as client:
                answer = client.infer(RawTensor(frame.pixels.tobytes(), str(frame.pixels.dtype), frame.pixels.shape))
                return answer.status, answer.release
        except UnreachableError:
            if time.monotonic() > deadline:
                raise


def _is_verified(agent: RealAgent, release: str) -> bool:
    """Tell whether a release that answered is in the agent's state, in a slot that has its hash."""
    record = read_record(agent.files.state)
    if record is None:
        return False
    known = [member.release for member in (*record.active, *record.candidate, *record.previous)]
    hashes = [known.bundle_sha256 for known in known if f"{known.name} {known.version}" == release]
    return bool(hashes) and all(
        sha256_file(agent.files.slots / f"{bundle_sha256}.bundle") == bundle_sha256 for bundle_sha256 in hashes
    )


def _caught_up(bed: Testbed, agent: RealAgent) -> OutboxFacts | None:
    """Return the outbox when the server's watermark is its last sequence; the agent keeps its messages for a while."""
    outbox = read_outbox(agent)
    with _reading(bed.database) as rows:
        mark = rows.execute(
            "SELECT watermark FROM outbox_mark WHERE device = ? AND epoch = ?", (agent.device, outbox.epoch)
        ).fetchone()
    return outbox if mark is not None and mark[0] >= outbox.last_sequence else None


def _epochs(bed: Testbed, device: str) -> int:
    with _reading(bed.database) as rows:
        found = rows.execute("SELECT count(DISTINCT epoch) FROM message WHERE device = ?", (device,)).fetchone()
    return int(found[0])


def _assigned(bed: Testbed) -> list[tuple[str, int, str]]:
    with _reading(bed.database) as rows:
        return rows.execute("SELECT device, counter, version FROM assignment WHERE version IS NOT NULL").fetchall()


def _signed(bed: Testbed) -> Iterable[tuple[str, int, str]]:
    """Yield what the signer's journal says; it is only read: the signer is at work on it."""
    for line in (bed.server_data / "signer" / "log.jsonl").read_bytes().splitlines():
        record = msgspec.json.decode(line, type=_JournalLine).record
        if isinstance(record, AssignmentSigned):
            yield from ((record.device, record.counter, path.split("/")[1]) for path in record.paths)


def _accepted(bed: Testbed) -> list[tuple[str, int, str]]:
    with _reading(bed.database) as rows:
        return rows.execute(
            "SELECT device, counter, version FROM device_event "
            "WHERE counter IS NOT NULL AND version IS NOT NULL AND kind IN ('update-found', 'verified')"
        ).fetchall()


class _JournalLine(msgspec.Struct):
    previous: str
    record: Record


@contextlib.contextmanager
def _reading(database: Path) -> Iterator[sqlite3.Connection]:
    """Open a database that a program is at work on, for reading only."""
    connection = sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True, timeout=10.0)
    try:
        yield connection
    finally:
        connection.close()
