# SPDX-License-Identifier: Apache-2.0
"""The root file system of an arm64 device: Debian's Python and C library, the agent's wheels, and a kernel.

Made once, in about half a minute, by a recipe that names its cache entry; afterwards no network is needed. It is small
on purpose: no package manager, no service manager, and EdgeFleet itself comes with each device (see ``software``).

=============  ====================================================================
``tree/``      the files, as qemu-user wants them
``root.ext4``  the same as a disk, mounted read-only
``vmlinuz``    Debian's kernel for clouds
``modules/``   the kernel's modules that such a device needs
``made.json``  :class:`Made`
=============  ====================================================================
"""

import compileall
import hashlib
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from py_compile import PycInvalidationMode

import msgspec

from edgefleet.contracts.canonical import canonical_json
from edgefleet.contracts.manifest import Fact
from fleet_emulation.linux_devices.apt_sources import Source, arm64_sources
from fleet_emulation.linux_devices.cache import Say, find_made, keep_newest, make_once, say_on_stderr
from fleet_emulation.linux_devices.debian_packages import Apt, unpack
from fleet_emulation.linux_devices.kernel_modules import load_order
from fleet_emulation.linux_devices.programs import program, run_program
from fleet_emulation.linux_devices.wheels import device_requirements, install_wheels

KIND = "root"
#: To be raised when this module makes something else from the same packages.
_LAYOUT = 6
_PACKAGES = ("busybox-static", "libstdc++6", "python3")
_KERNEL = "linux-image-cloud-arm64"
#: What apt adds to what was asked for, and a device that is never upgraded does not need.
_UNWANTED = ("dpkg_", "tar_")
#: What a device needs before it has a disk.
_MODULES = ("virtio_mmio", "virtio_blk", "virtio_console", "virtio_net", "ext4")
_BUSYBOX = (
    "cat chmod chown cp date dd df du echo env false find free grep head hostname id ip kill ln ls mkdir mount mv ps "
)
_BUSYBOX += (
    "pwd rm rmdir sed setsid sh sleep sort stat sync tail tar top touch tr true umount uname uptime wc wget which"
)
#: Who the agent is on the device, as a service manager would give it a user of its own.
AGENT_USER = "edgefleet"
_ETC = {
    "passwd": f"root:x:0:0:root:/root:/bin/sh\n{AGENT_USER}:x:990:990:the agent:/data/agent:/bin/false\n",
    "group": f"root:x:0:\n{AGENT_USER}:x:990:\n",
    "hosts": "127.0.0.1 localhost\n",
    "hostname": "device\n",
}
_AGENT = """\
#!/usr/bin/python3
import sys
from device_agent.cli import main
sys.exit(main())
"""
#: What starts the device's Python on this machine, below the tree; see ``user_mode``.
USER_MODE_PYTHON = "usr/bin/qemu-python3"
_USER_MODE = """\
#!/bin/sh
root=${0%/usr/bin/*}
exec qemu-aarch64 -L "$root" -0 "$0" "$root/usr/bin/python3" "$@"
"""
#: What qemu-user shows instead of this machine's own file: LiteRT's library for CPUs crashes on that of another kind.
_CPU = """\
processor\t: 0
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
_CPU_LISTS = ("possible", "present")
#: Where EdgeFleet's own code lies on a device.
SOFTWARE = "/data/software"
_SPACE_BYTES = 64 << 20
_KEPT = 2
_LIMIT_S = 120.0


class Recipe(Fact, frozen=True, kw_only=True):
    """All that decides what comes out, but for the packages' versions: those are of the day on which it is made."""

    layout: int
    packages: tuple[str, ...]
    kernel: str
    requirements: tuple[str, ...]
    sources: tuple[str, ...]

    @property
    def key(self) -> str:
        """The name of its entry in the cache."""
        return hashlib.sha256(canonical_json(msgspec.to_builtins(self))).hexdigest()[:24]


class Made(Fact, frozen=True, kw_only=True):
    """What was made: the version of Python, the packages and wheels with theirs, and the kernel's modules in order."""

    recipe: Recipe
    python: str
    modules: tuple[str, ...]
    packages: tuple[str, ...]
    wheels: tuple[str, ...]


@dataclass(frozen=True)
class RootFileSystem:
    """One that is there; see the table above."""

    folder: Path

    @property
    def key(self) -> str:
        """What it was made from, as a name."""
        return self.folder.name

    @property
    def tree(self) -> Path:
        """The files as a folder."""
        return self.folder / "tree"

    @property
    def image(self) -> Path:
        """The files as a disk."""
        return self.folder / "root.ext4"

    @property
    def kernel(self) -> Path:
        """The kernel as QEMU takes it."""
        return self.folder / "vmlinuz"

    @property
    def modules(self) -> list[Path]:
        """The kernel's modules in the order in which they load."""
        return [self.folder / "modules" / f"{name}.ko" for name in self.made.modules]

    @cached_property
    def made(self) -> Made:
        """What is in it."""
        return msgspec.json.decode((self.folder / "made.json").read_bytes(), type=Made)


def recipe() -> Recipe:
    """Return what this machine makes a root file system from.

    Raises:
        SettingError: this machine has no sources of Debian's packages.
    """
    suites = sorted({suite for source in arm64_sources() for suite in source.suites})
    return Recipe(
        layout=_LAYOUT,
        packages=_PACKAGES,
        kernel=_KERNEL,
        requirements=tuple(device_requirements()),
        sources=tuple(suites),
    )


def find_root_file_system() -> RootFileSystem | None:
    """Return the root file system if it is made already."""
    folder = find_made(KIND, recipe().key)
    return RootFileSystem(folder) if folder else None


def root_file_system(*, say: Say = say_on_stderr) -> RootFileSystem:
    """Return the root file system, made now if need be; ``say`` hears what takes long.

    Raises:
        UnreachableError: it is not made yet, and packages or wheels cannot be fetched.
        MissingProgramError: a program for making it is missing.
        SettingError: this machine has no sources of Debian's packages.
        StorageError: the cache cannot be written.
    """
    wanted = recipe()
    folder = make_once(KIND, wanted.key, lambda folder: _make(wanted, arm64_sources(), folder, say), say=say)
    keep_newest(KIND, count=_KEPT, besides=folder)
    return RootFileSystem(folder)


def _make(wanted: Recipe, sources: list[Source], folder: Path, say: Say) -> None:
    for name in ("mke2fs", "dpkg-deb"):  # first of all what may be missing
        program(name)
    tree = folder / "tree"
    tree.mkdir()
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        say("making the root file system of arm64 devices, once: fetching Debian's packages")
        apt = Apt(Path(scratch) / "apt", sources)
        apt.update()
        packages = [path for path in apt.download(wanted.packages) if not path.name.startswith(_UNWANTED)]
        packages.append(apt.download_alone(apt.depends(wanted.kernel)[0]))
        say("… unpacking them")
        for package in packages:
            unpack(package, tree)
    modules = _take_kernel(tree, folder)
    _complete(tree)
    python = _python_of(tree)
    say("… fetching the wheels")
    wheels = tree / "usr/lib/python3/dist-packages"
    install_wheels(wanted.requirements, wheels, python=python)
    (wheels / "edgefleet.pth").write_text(f"{SOFTWARE}\n")
    compile_for(python, tree, [tree / "usr/lib" / f"python{python}", wheels])
    say("… making the disk")
    make_disk(tree, folder / "root.ext4", size_bytes=_size_of_disk(tree), journal=False)
    names = tuple(package.name.removesuffix(".deb") for package in packages)
    facts = Made(recipe=wanted, python=python, modules=modules, packages=names, wheels=_wheels(wheels))
    (folder / "made.json").write_bytes(msgspec.json.format(msgspec.json.encode(facts)))


def _take_kernel(tree: Path, folder: Path) -> tuple[str, ...]:
    """Move the kernel out of the tree, and the modules that are needed; return their names in order."""
    next((tree / "boot").glob("vmlinuz-*")).rename(folder / "vmlinuz")
    (release,) = [*tree.glob("lib/modules/*"), *tree.glob("usr/lib/modules/*")]
    modules = load_order(_MODULES, release)
    (folder / "modules").mkdir()
    for module in modules:
        (folder / "modules" / f"{module.name}.ko").write_bytes(module.content)
    shutil.rmtree(tree / "boot")
    shutil.rmtree(release.parent)
    return tuple(module.name for module in modules)


def _complete(tree: Path) -> None:
    """Add what packages that we left out, or their scripts, would have made; drop what only people read."""
    for name in ("doc", "man", "locale", "info", "lintian", "bug"):
        shutil.rmtree(tree / "usr/share" / name, ignore_errors=True)
    for name in ("bin", "lib", "sbin"):
        if not (tree / name).exists():
            (tree / "usr" / name).mkdir(exist_ok=True)
            (tree / name).symlink_to(f"usr/{name}")
    for name in ("data", "dev", "proc", "root", "run", "sys", "tmp", "etc"):
        (tree / name).mkdir(exist_ok=True)
    (tree / "proc/cpuinfo").write_text(_CPU)
    (tree / "sys/devices/system/cpu").mkdir(parents=True)
    for name in _CPU_LISTS:
        (tree / "sys/devices/system/cpu" / name).write_text("0\n")
    for name, text in _ETC.items():
        (tree / "etc" / name).write_text(text)
    for name in _BUSYBOX.split():
        if not (tree / "bin" / name).exists():
            (tree / "bin" / name).symlink_to("busybox")
    for name, text in (("usr/bin/edgefleet-agent", _AGENT), (USER_MODE_PYTHON, _USER_MODE)):
        (tree / name).write_text(text)
        (tree / name).chmod(0o755)


def _python_of(tree: Path) -> str:
    """Return the version of Debian's Python, such as ``3.11``."""
    link = (tree / "usr/bin/python3").readlink().name
    return re.sub(r"^python", "", link)


def compile_for(python: str, root: Path, folders: list[Path], *, shown_below: str = "/") -> None:
    """Compile Python files if this interpreter writes the code of that version; else the device does it by itself.

    The code does not depend on times or on the machine, and is believed without a look at its source.
    """
    if python != f"{sys.version_info.major}.{sys.version_info.minor}" or sys.implementation.name != "cpython":
        return
    mode = PycInvalidationMode.UNCHECKED_HASH
    for folder in folders:
        compileall.compile_dir(
            folder, quiet=2, stripdir=str(root), prependdir=shown_below, invalidation_mode=mode, workers=1
        )


def make_disk(tree: Path, image: Path, *, size_bytes: int, journal: bool) -> None:
    """Make a sparse file with an ext4 file system that holds a tree.

    Raises:
        ProgramFailedError: mke2fs failed.
    """
    with image.open("wb") as file:
        file.truncate(size_bytes)
    features = [] if journal else ["-O", "^has_journal"]
    owner = f"root_owner={os.getuid()}:{os.getgid()}"
    command = [
        program("mke2fs"),
        "-q",
        "-F",
        "-t",
        "ext4",
        *features,
        "-m",
        "0",
        "-E",
        owner,
        "-d",
        str(tree),
        str(image),
    ]
    run_program(command, what=f"cannot make the disk '{image}'", limit_s=_LIMIT_S)


def _size_of_disk(tree: Path) -> int:
    """Return the size of a disk on which a tree has room, in whole MiB."""
    used_bytes = sum((path.lstat().st_size + 4095) // 4096 * 4096 + 256 for path in tree.rglob("*"))
    return (used_bytes + used_bytes // 8 + _SPACE_BYTES) >> 20 << 20


def _wheels(folder: Path) -> tuple[str, ...]:
    return tuple(sorted(path.name.removesuffix(".dist-info") for path in folder.glob("*.dist-info")))
