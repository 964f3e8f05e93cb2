# SPDX-License-Identifier: Apache-2.0
"""The kernel's modules that a device needs before it has a disk, in an order in which they load."""

import lzma
import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from edgefleet.contracts.errors import EdgeFleetError

_DEPENDS = re.compile(rb"(?:^|\0)depends=([^\0]*)\0")
_SUFFIXES = re.compile(r"\.ko(\.xz)?$")


class Module(NamedTuple):
    """One module, as the kernel takes it."""

    name: str
    content: bytes


def load_order(wanted: Iterable[str], folder: Path) -> list[Module]:
    """Return the modules and all that they depend on, each after what it depends on; those built in are left out.

    ``folder`` is one kernel's, as its package has it (``lib/modules/RELEASE``).

    Raises:
        EdgeFleetError: the kernel has no such module.
    """
    files = {_name(path): path for path in folder.rglob("*.ko*")}
    built_in = {_name(Path(line)) for line in (folder / "modules.builtin").read_text().split()}
    found: dict[str, Module] = {}

    def add(name: str) -> None:
        if name in found or name in built_in:
            return
        if name not in files:
            raise EdgeFleetError(
                f"the kernel in '{folder.name}' has no module '{name}'",
                hint="make the root file system from another release of Debian",
            )
        content = _content(files[name])
        for needed in dependencies(content):
            add(needed)
        found[name] = Module(name, content)

    for name in wanted:
        add(name)
    return list(found.values())


def dependencies(module: bytes) -> list[str]:
    """Return what a module names in its section ``.modinfo`` as needed before it."""
    match = _DEPENDS.search(module)
    return [name.replace("-", "_") for name in match[1].decode().split(",") if name] if match else []


def _name(path: Path) -> str:
    return _SUFFIXES.sub("", path.name).replace("-", "_")


def _content(path: Path) -> bytes:
    data = path.read_bytes()
    return lzma.decompress(data) if path.suffix == ".xz" else data
