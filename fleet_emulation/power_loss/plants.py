# SPDX-License-Identifier: Apache-2.0
"""Faults to plant in an agent, so that a rig can show that it sees them: a missing fsync in each place that needs one.

Each function breaks the process that calls it, and nothing else: the agent has no switch for this.
"""

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

from device_agent.adapters.storage import durable, slots, state_file
from device_agent.adapters.verification import download


def bundle_data() -> None:
    """A bundle gets its name before its bytes are on the disk."""
    _replace(slots, sync_file=_nothing)
    _replace(download, os=SimpleNamespace(**{name: getattr(os, name) for name in os.__all__} | {"fsync": _nothing}))


def folders() -> None:
    """A rename is never followed by a sync of its folder."""
    _replace(slots, sync_folder=_nothing)
    _replace(durable, sync_folder=_nothing)


def state() -> None:
    """The state database does not wait for the disk."""
    connect = state_file._connect

    def careless(path: Path) -> sqlite3.Connection:
        database = connect(path)
        database.execute("PRAGMA synchronous = OFF")
        return database

    _replace(state_file, _connect=careless)


def good_mark() -> None:
    """The note of a commit beside its slot does not wait for the disk."""

    def careless(path: Path, data: bytes, *, mode: int = 0o644) -> None:
        path.write_bytes(data)
        path.chmod(mode)

    _replace(slots, write_durably=careless)


PLANTS: dict[str, Callable[[], None]] = {
    "the bundle's bytes": bundle_data,
    "folders": folders,
    "the state": state,
    "the mark of a commit": good_mark,
}


def _replace(module: ModuleType, **names: object) -> None:
    for name, value in names.items():
        assert hasattr(module, name)  # noqa: S101  else nothing is planted
        setattr(module, name, value)


def _nothing(_path: object) -> None:
    return None
