# SPDX-License-Identifier: Apache-2.0
"""A server that has nothing to do: its engine takes no lock, and idle devices do not hold up its end."""

import sqlite3
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3

from fleet_server.adapters.releases.release_store import ReleaseStore
from fleet_server.adapters.rollouts.rollout_engine import RolloutEngine
from fleet_server.adapters.storage.database import Database


class Untouched:
    """Stands where nothing may be asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the idle engine asked for {name}")


def test_an_engine_without_a_rollout_under_way_waits_for_no_writer(tmp_path: Path) -> None:
    database = Database(tmp_path / "fleet.db")
    database.migrate()
    add = "INSERT INTO device (name, profile, invited_at, enrolled_at) VALUES ('d1', 'linux-x86_64', 1.0, 1.0)"
    with database.write() as connection:
        connection.exec_driver_sql(add)
    hinted: list[object] = []
    nothing: Any = Untouched()
    releases = ReleaseStore(database, nothing, tmp_path, lambda: 1.0)
    engine = RolloutEngine(database, releases, nothing, lambda: 1.0, time_scale=1.0, hint=hinted.append)
    other = sqlite3.connect(tmp_path / "fleet.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    other.execute("UPDATE device SET enrolled_at = 2.0")
    engine.step_all()  # a write would wait for the other one, and fail in the end
    assert hinted == []
    other.rollback()
    other.close()
    database.close()


def test_a_server_that_stops_does_not_wait_for_idle_devices_to_say_goodbye(new_server: Any) -> None:
    server = new_server()
    device = server.enrol("d1")
    context = ssl.create_default_context(cafile=str(device.folder / "ca.pem"))
    context.load_cert_chain(device.folder / "crt.pem", device.folder / "key.pem")
    address = urlsplit(server.device_url)
    with urllib3.HTTPSConnectionPool(address.hostname, address.port, ssl_context=context) as kept:
        assert kept.request("GET", "/director/d1/metadata/timestamp.json").status == 200
        assert server.stop() == 0
        assert kept.num_connections == 1
    log = (server.folder / "server.log").read_text()
    assert "Finished server process" in log
    assert "timeout graceful shutdown exceeded" not in log
