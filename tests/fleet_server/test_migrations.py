# SPDX-License-Identifier: Apache-2.0
"""A database of an older EdgeFleet, with rows in every table, keeps all of them on the way to this one."""

import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from edgefleet.contracts.errors import ConflictError
from fleet_server.adapters.storage.database import MIGRATIONS, REVISION, Database
from fleet_server.adapters.storage.schema import metadata

ROWS = 3


def config() -> Config:
    made = Config()
    made.set_main_option("script_location", str(MIGRATIONS))
    return made


REVISIONS = [script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()]


def value_for(column: sa.Column[Any], row: int) -> Any:
    """Return something of the column's type that differs from row to row; references agree by their row."""
    made_of: dict[type, Any] = {
        bool: row % 2 == 0,
        int: row,
        float: row + 0.25,
        str: f"text {row}",
        bytes: b"\x00\xff" + bytes([row]),
        datetime.datetime: datetime.datetime(2026, 1, row, tzinfo=datetime.UTC),
    }
    return made_of[column.type.python_type]


def tables_at(engine: sa.Engine) -> list[sa.Table]:
    found = sa.MetaData()
    found.reflect(engine)
    return [table for table in found.sorted_tables if table.name != "alembic_version"]


def rows_of(connection: sa.Connection, table: sa.Table) -> list[dict[str, Any]]:
    return sorted((dict(row) for row in connection.execute(sa.select(table)).mappings()), key=repr)


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    made = sa.create_engine(f"sqlite:///{tmp_path / 'fleet.db'}")
    yield made
    made.dispose()


@pytest.mark.parametrize("revision", REVISIONS)
def test_every_row_of_an_older_database_is_there_after_the_upgrade(
    engine: sa.Engine, tmp_path: Path, revision: str
) -> None:
    older = config()
    with engine.begin() as connection:
        older.attributes["connection"] = connection
        command.upgrade(older, revision)
    before = {}
    with engine.begin() as connection:
        for table in tables_at(engine):
            rows = [{column.name: value_for(column, row) for column in table.columns} for row in range(1, ROWS + 1)]
            connection.execute(sa.insert(table), rows)
            before[table.name] = (table, rows_of(connection, table))
    engine.dispose()

    database = Database(tmp_path / "fleet.db")
    database.migrate()
    with database.read() as connection:
        for name, (table, rows) in before.items():
            assert rows_of(connection, table) == rows, name
        for table in metadata.sorted_tables:
            assert len(connection.execute(sa.select(table)).all()) == (ROWS if table.name in before else 0), table.name
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        assert connection.exec_driver_sql("PRAGMA integrity_check").scalar() == "ok"
    database.close()


def test_a_database_of_a_newer_version_is_left_alone_and_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    database = Database(path)
    database.migrate()
    newer = f"{int(REVISION) + 1:04}"
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = ?", (newer,))
    with pytest.raises(ConflictError) as raised:
        database.migrate()
    assert raised.value.message == (
        f"the database '{path}' has the schema {newer}, this version of EdgeFleet knows schemas up to {REVISION}; "
        "nothing was changed"
    )
    database.close()
