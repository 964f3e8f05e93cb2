# SPDX-License-Identifier: Apache-2.0
"""A real broker, the server's own ingestion and one device's reporting, each of which can be killed or set back.

Nothing may be lost that the outbox promised and its bound allowed to keep: :meth:`ReportingRig.verdict` compares what
the device promised with what the server's database holds.
"""

import shutil
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType

import msgspec

from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.messages import Gap
from fleet_emulation.broker import Broker, wait_for_port
from fleet_emulation.processes import Program
from fleet_server.adapters.storage.database import Database
from fleet_server.adapters.telemetry.mqtt_link import BrokerTls, MqttLink, parse_broker
from fleet_server.adapters.telemetry.telemetry_store import TelemetryStore

TENANT = "acme"
DEVICE = "dev-1"
_SETTLE_S = 150.0
_NO_TLS = BrokerTls("", "", "")


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the messages.

    ``gaps`` are records of evicted messages, ``told`` the messages that they name; ``repeated`` came more than once
    and were recognised; ``duplicates`` were not.
    """

    promised: int
    stored: int
    lost: int
    gaps: int
    told: int
    repeated: int
    duplicates: int

    @property
    def whole(self) -> bool:
        """Tell whether nothing was lost and nothing counted twice."""
        return not self.lost and not self.duplicates


class ReportingRig:
    """The broker, the server's ingestion and the device; a context that stops them all."""

    def __init__(self, folder: Path, *, every_s: float) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.outbox = folder / "outbox.db"
        self.promises = folder / "promises"
        self._every_s = every_s
        self._broker = Broker(folder / "broker", kind="mosquitto")
        self._link: MqttLink | None = None
        self._database: Database | None = None
        self._device: Program | None = None
        self._to_deliver: list[tuple[str, int]] = []
        self.start_server()

    def __enter__(self) -> "ReportingRig":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        self.kill_device()
        self.stop_server()
        self._broker.stop()

    # ------------------------------------------------------------------ the server

    @property
    def database(self) -> Path:
        """The server's database file."""
        return self.folder / "server" / "fleet.db"

    def start_server(self) -> None:
        """Take messages in, with what the database holds."""
        self.database.parent.mkdir(exist_ok=True)
        self._database = Database(self.database)
        self._database.migrate()
        with self._database.write() as connection:
            connection.exec_driver_sql(
                "INSERT OR IGNORE INTO device (name, profile, invited_at, enrolled_at) VALUES (?, 'p', 1, 1)", (DEVICE,)
            )
        store = TelemetryStore(self._database, TENANT, time.time)
        self._link = MqttLink(parse_broker(self._broker.url), _NO_TLS, TENANT, store)
        self._link.start()

    def stop_server(self) -> None:
        """Stop taking messages in."""
        if self._link is not None and self._database is not None:
            self._link.close()
            self._database.close()
        self._link = self._database = None

    def back_up(self) -> Path:
        """Copy the server's database, as a backup does while it runs."""
        copy = self.folder / "backup.db"
        with closing(sqlite3.connect(self.database)) as source, closing(sqlite3.connect(copy)) as sink:
            source.backup(sink)
        return copy

    def restore(self, backup: Path) -> None:
        """Set the server back to a backup."""
        self.stop_server()
        shutil.rmtree(self.database.parent)
        self.database.parent.mkdir()
        shutil.copy(backup, self.database)
        self.start_server()

    # ------------------------------------------------------------------ what is killed

    def start_device(self, *, every_s: float | None = None) -> None:
        """Let the device report; ``every_s`` 0: nothing new."""
        every_s = self._every_s if every_s is None else every_s
        arguments = [str(self.outbox), DEVICE, str(self._broker.port), str(every_s), str(self.promises)]
        command = [sys.executable, "-m", "fleet_emulation.reporting_device", *arguments]
        self._device = Program("the device's reporting", command, log=self.folder / "device.log")

    def kill_device(self) -> None:
        """Let the device die as of a power cut, but for what the kernel holds."""
        if self._device is not None:
            self._device.process.kill()
            self._device.process.wait()
            self._device = None

    def restart_broker(self) -> None:
        """Kill the broker, which forgets all that it had, and start it on the same port."""
        program = self._broker.program
        program.process.kill()
        program.process.wait()
        self._broker.program = Program(program.name, program.command, log=program.log)
        wait_for_port(self._broker.port, self._broker.program)

    # ------------------------------------------------------------------ what came of it

    def promised(self) -> list[tuple[str, int]]:
        """Return the messages that the device said are stored, by epoch and sequence."""
        lines = self.promises.read_text().splitlines(keepends=True) if self.promises.exists() else []
        pairs = (line.split() for line in lines if line.endswith("\n"))
        return [(epoch, int(sequence)) for epoch, sequence in pairs]

    def wait_until_promised(self, count: int) -> None:
        """Wait for the device's next messages.

        Raises:
            EdgeFleetError: they do not come.
        """
        self._wait(lambda: len(self.promised()) >= count, f"{count} messages")

    def settle(self, *, restart: bool = True) -> Verdict:
        """Let the device deliver what it still has, and return the verdict; without a restart it goes on reporting."""
        if restart:
            self.kill_device()
            self.start_device(every_s=0.0)
        self._to_deliver = self.promised()
        with suppress(EdgeFleetError):  # the verdict says how much is lost
            self._wait(self._nothing_missing, "everything promised")
        verdict = self.verdict()
        self._to_deliver = []
        return verdict

    def verdict(self) -> Verdict:
        """Compare what was promised with what is stored, and with what gaps tell."""
        promised = self._to_deliver or self.promised()
        with closing(sqlite3.connect(self.database)) as database:
            keys = database.execute("SELECT epoch, sequence, kind, body FROM message").fetchall()
            counts = dict(database.execute("SELECT what, count FROM ingestion_count").fetchall())
            events = database.execute("SELECT count(*) FROM device_event").fetchone()[0]
        gaps = [msgspec.json.decode(body, type=Gap) for _, _, kind, body in keys if kind == "gap"]
        return Verdict(
            promised=len(promised),
            stored=len(keys),
            lost=len(self._missing()),
            gaps=len(gaps),
            told=sum(gap.last - gap.first + 1 for gap in gaps),
            repeated=counts.get("repeated", 0),
            duplicates=_twice(keys) + events - sum(kind == "event" for _, _, kind, _ in keys),
        )

    def _missing(self) -> set[tuple[str, int]]:
        promised = self._to_deliver or self.promised()
        with closing(sqlite3.connect(self.database, timeout=15.0)) as database:
            known = set(database.execute("SELECT epoch, sequence FROM message").fetchall())
            for epoch, first, last in database.execute("SELECT epoch, first, last FROM outbox_gap").fetchall():
                known |= {(epoch, sequence) for sequence in range(first, last + 1)}
        return set(promised) - known

    def _nothing_missing(self) -> bool:
        return not self._missing()

    @staticmethod
    def _wait(condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + _SETTLE_S
        while not condition():
            if time.monotonic() > deadline:
                raise EdgeFleetError(f"{what} did not come within {_SETTLE_S:g} s", hint="see device.log")
            time.sleep(0.05)


def _twice(keys: Iterable[tuple[str, int, str, str]]) -> int:
    counted = Counter((epoch, sequence) for epoch, sequence, _, _ in keys)
    return sum(count - 1 for count in counted.values())
