# SPDX-License-Identifier: Apache-2.0
"""When each device polled last: noted in memory, written in one transaction now and then.

A poll must not cost a disk write; losing the last few seconds of these times in a crash costs nothing.
"""

import threading

from fleet_server.adapters.storage.database import Database


class PollTimes:
    """Notes polls."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._noting = threading.Lock()
        self._times: dict[str, float] = {}

    def note(self, device: str, now: float) -> None:
        """Remember that a device polled."""
        with self._noting:
            self._times[device] = now

    def flush(self) -> None:
        """Write what was noted since the last flush."""
        with self._noting:
            times, self._times = self._times, {}
        if not times:
            return
        with self._database.write() as connection:
            for device, at in times.items():
                connection.exec_driver_sql(
                    "INSERT OR REPLACE INTO device_poll (device, polled_at) VALUES (?, ?)", (device, at)
                )
