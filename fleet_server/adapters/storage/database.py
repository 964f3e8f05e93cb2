# SPDX-License-Identifier: Apache-2.0
"""The SQLite database: WAL, synchronous=FULL, one writer at a time, reads that never wait.

A write transaction takes SQLite's write lock at its begin (BEGIN IMMEDIATE), so that what it reads is what it
changes. A commit has reached the disk when :meth:`Database.write` ends.
"""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy
from sqlalchemy import event, inspect
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError, OperationalError

from edgefleet.contracts.errors import ConflictError, StorageError

#: The newest migration; a start that finds it in place does not load Alembic.
REVISION = "0004"
MIGRATIONS = Path(__file__).parent / "migrations"
_BUSY_TIMEOUT_MS = 15_000


class Database:
    """All of one tenant's state, in one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writing = threading.Lock()
        self._engine = _engine(path)
        self._local = threading.local()
        self._raw: list[sqlite3.Connection] = []

    def fetch_one(self, sql: str, parameters: Sequence[object]) -> sqlite3.Row | None:
        """Return the first row of one point read, by plain sqlite3: the device path, where each poll counts.

        Raises:
            StorageError: the database cannot be read.
        """
        try:
            row: sqlite3.Row | None = self._raw_connection().execute(sql, parameters).fetchone()
        except sqlite3.Error as error:
            raise _failed(self.path, error) from error
        return row

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """Yield a connection that sees one consistent state.

        Raises:
            StorageError: the database cannot be read.
        """
        with _mapped(self.path), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def write(self) -> Iterator[Connection]:
        """Yield a connection whose changes are all kept, durably, or none of them.

        Raises:
            StorageError: the database cannot be written, as on a full disk.
        """
        with _mapped(self.path), self._writing, self._engine.connect() as connection:
            connection = connection.execution_options(edgefleet_writes=True)
            with connection.begin():
                yield connection

    def migrate(self) -> None:
        """Bring the tables to this version of EdgeFleet.

        Raises:
            ConflictError: a newer version of EdgeFleet wrote them.
        """
        found = self._revision()
        if found == REVISION:
            return
        if found is not None and found > REVISION:
            raise ConflictError(
                f"the database '{self.path}' has the schema {found}, this version of EdgeFleet knows schemas "
                f"up to {REVISION}; nothing was changed",
                hint="start the version of EdgeFleet that wrote it, or restore a backup from before",
            )
        from alembic import command
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        with self.write() as connection:
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def _revision(self) -> str | None:
        with self.read() as connection:
            if not inspect(connection).has_table("alembic_version"):
                return None
            return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar()

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()
        for connection in self._raw:
            connection.close()

    def _raw_connection(self) -> sqlite3.Connection:
        """Return this thread's connection, which only reads, each statement by itself."""
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            uri = f"{self.path.resolve().as_uri()}?mode=ro"
            timeout_s = _BUSY_TIMEOUT_MS / 1000
            connection = sqlite3.connect(
                uri, uri=True, isolation_level=None, check_same_thread=False, timeout=timeout_s
            )
            connection.row_factory = sqlite3.Row
            self._local.connection = connection
            self._raw.append(connection)
        return connection


def _engine(path: Path) -> Engine:
    engine = sqlalchemy.create_engine(f"sqlite:///{path}", connect_args={"timeout": _BUSY_TIMEOUT_MS / 1000})

    @event.listens_for(engine, "connect")
    def _prepare(connection: object, _record: object) -> None:
        connection.isolation_level = None  # type: ignore[attr-defined]  # BEGIN is ours, below
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"busy_timeout={_BUSY_TIMEOUT_MS}"):
            connection.execute(f"PRAGMA {pragma}")  # type: ignore[attr-defined]

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        writes = connection.get_execution_options().get("edgefleet_writes")
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


@contextmanager
def _mapped(path: Path) -> Iterator[None]:
    try:
        yield
    except (OperationalError, DBAPIError) as error:
        raise _failed(path, error.orig) from error


def _failed(path: Path, cause: BaseException | None) -> StorageError:
    return StorageError(
        f"the database '{path.name}' failed: {cause}",
        hint="check the free space and the permissions of the server's data folder",
    )
