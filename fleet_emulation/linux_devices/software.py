# SPDX-License-Identifier: Apache-2.0
"""EdgeFleet's own code as a device has it: what this Python would import, compiled, on the device's own disk.

It is no part of the root file system, so that a change of the code makes nothing anew that takes long.
"""

import hashlib
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from fleet_emulation.linux_devices.cache import keep_newest, make_once
from fleet_emulation.linux_devices.root_file_system import RootFileSystem, compile_for

KIND = "software"
#: The rooms that a device has; it converts nothing and serves no fleet.
ROOMS = ("edgefleet", "device_agent")
_KEPT = 4
_SUFFIX = ".py"


def software_for(root: RootFileSystem) -> Path:
    """Return a folder with what a new device's disk holds: the rooms below ``software/``, compiled for its Python."""
    python = root.made.python
    digest = hashlib.sha256(python.encode())
    for room in ROOMS:
        for path, name in _sources(room):
            digest.update(f"\0{name}\0".encode() + path.read_bytes())
    folder = make_once(KIND, digest.hexdigest()[:24], lambda folder: _make(folder, python))
    keep_newest(KIND, count=_KEPT, besides=folder)
    return folder


def _make(folder: Path, python: str) -> None:
    for room in ROOMS:
        for path, name in _sources(room):
            target = folder / "software" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    compile_for(python, folder, [folder / "software"], shown_below="/data")


def _sources(room: str) -> Iterator[tuple[Path, str]]:
    spec = find_spec(room)
    assert spec is not None  # noqa: S101  # it came with this module
    for base in map(Path, spec.submodule_search_locations or ()):
        for path in sorted(base.rglob(f"*{_SUFFIX}")):
            yield path, f"{room}/{path.relative_to(base)}"
