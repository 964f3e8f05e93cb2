# SPDX-License-Identifier: Apache-2.0
"""What this board is, as far as the kernel and the installed packages say: nothing is loaded and nothing is run.

A fact that cannot be read is left out: a container hides some, and a board without a device tree has no name.
"""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import msgspec

from device_agent.launcher import FOLDER_VARIABLE
from edgefleet.contracts.enrolment import HardwareFacts
from edgefleet.contracts.software import ORDER_KIND
from edgefleet.version import __version__

_RUNTIMES = ("ai-edge-litert", "tflite-runtime")
#: Device nodes of accelerators, by the names that their drivers give them.
_NODES = (
    "apex_*",
    "hailo*",
    "ethosu*",
    "galcore",
    "rknpu*",
    "davinci*",
    "nvhost-*dla*",
    "nvidia[0-9]*",
    "accel/accel*",
)
#: PCI classes: processing accelerator, co-processor, 3D controller.
_PCI_CLASSES = ("0x1200", "0x0b40", "0x0302")
#: USB sticks, as vendor and product: Coral (before and after its firmware came), Movidius.
_USB = ("1a6e:089a", "18d1:9302", "03e7:2485", "03e7:f63b")
#: What this agent's orders may list beside bundles; servers of before this was said list none of it.
ORDER_KINDS = (ORDER_KIND,)
_FEATURES_LIMIT, _ACCELERATORS_LIMIT = 256, 64


def hardware_facts(root: Path = Path("/")) -> HardwareFacts:
    """Observe this board; ``root`` is where ``/proc``, ``/sys`` and ``/dev`` lie."""
    processor = _first_processor(root / "proc" / "cpuinfo")
    runtimes = _runtimes()
    return HardwareFacts(
        architecture=platform.machine(),
        kernel=platform.release(),
        cpu_count=os.cpu_count() or 1,
        memory_bytes=_memory_bytes(root / "proc" / "meminfo"),
        python=platform.python_version(),
        runtime=runtimes[0] if runtimes else "none",
        board=_line(root / "sys/firmware/devicetree/base/model") or _line(root / "sys/class/dmi/id/product_name"),
        soc=_soc(root),
        cpu_model=(processor.get("model name") or processor.get("Model") or "")[:200],
        cpu_features=tuple((processor.get("flags") or processor.get("Features") or "").split()[:_FEATURES_LIMIT]),
        accelerators=tuple(sorted({*_nodes(root), *_pci(root), *_usb(root)})[:_ACCELERATORS_LIMIT]),
        runtimes=runtimes,
        agent_version=__version__,
        order_kinds=ORDER_KINDS,
    )


def facts_to_tell() -> HardwareFacts:
    """Observe this board for its server; an agent that no launcher started wants no orders of software, which nobody
    could try and take back, nor does one that cannot write where it would lie.
    """
    facts = hardware_facts()
    return facts if _takes_software() else msgspec.structs.replace(facts, order_kinds=())


def _takes_software() -> bool:
    folder = os.environ.get(FOLDER_VARIABLE, "")
    if not folder:
        return False
    sets = Path(folder) / "sets"
    there = [path for path in (sets, Path(folder)) if path.exists()] or [
        next(path for path in Path(folder).parents if path.exists())
    ]
    return all(os.access(path, os.W_OK | os.X_OK) for path in there)


def _runtimes() -> tuple[str, ...]:
    found = []
    for name in _RUNTIMES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return tuple(found)


def _first_processor(path: Path) -> dict[str, str]:
    """Return the first processor's fields; all others of a board that the agent runs on have the same features."""
    fields: dict[str, str] = {}
    for line in _text(path).splitlines():
        name, separator, value = line.partition(":")
        if not separator and fields:
            break
        fields.setdefault(name.strip(), value.strip())
    return fields


def _memory_bytes(path: Path) -> int:
    """Return the memory that the kernel has: without what firmware and a GPU took of it."""
    for line in _text(path).splitlines():
        name, _, value = line.partition(":")
        kilobytes = value.split()[:1]
        if name == "MemTotal" and kilobytes and kilobytes[0].isdecimal():
            return int(kilobytes[0]) << 10
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _soc(root: Path) -> str:
    """Return the chip as the device tree names it (``brcm,bcm2711``), or as its driver does."""
    compatible = _text(root / "sys/firmware/devicetree/base/compatible").rstrip("\0").split("\0")
    return compatible[-1][:200] or _line(root / "sys/devices/soc0/soc_id")


def _nodes(root: Path) -> list[str]:
    devices = root / "dev"
    return [f"node:{path.relative_to(devices)}" for pattern in _NODES for path in devices.glob(pattern)]


def _pci(root: Path) -> list[str]:
    found = []
    for device in (root / "sys/bus/pci/devices").glob("*"):
        if _line(device / "class").startswith(_PCI_CLASSES):
            vendor, product = (_line(device / name).removeprefix("0x") for name in ("vendor", "device"))
            found.append(f"pci:{vendor}:{product}")
    return found


def _usb(root: Path) -> list[str]:
    devices = (root / "sys/bus/usb/devices").glob("*")
    ids = (f"{_line(device / 'idVendor')}:{_line(device / 'idProduct')}" for device in devices)
    return [f"usb:{name}" for name in ids if name in _USB]


def _line(path: Path) -> str:
    return _text(path).strip().rstrip("\0")[:200]


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
