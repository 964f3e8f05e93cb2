# SPDX-License-Identifier: Apache-2.0
"""Images: C sources, a profile and a compiler in; a linked program that fits the board, and its sizes, out.

Object files and images are cached by the content of everything that they are made from: building again costs a few
milliseconds, and many processes may build at once.
"""

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from edgefleet.boards.cache import key_of, make_once
from edgefleet.boards.elf import Elf, Section, read_elf
from edgefleet.boards.firmware_files import firmware_folder
from edgefleet.boards.machines import uart_defines
from edgefleet.boards.programs import ask
from edgefleet.boards.toolchains import Toolchain
from edgefleet.contracts.errors import BudgetError, BuildError, ProfileError
from edgefleet.contracts.files import read_file
from edgefleet.contracts.profile import MemoryRegion, Profile

#: Every image is linked with these; the linker leaves out what is not used.
_BOARD_SOURCES = ("start.c", "semihosting.c", "memory.c", "uart.c")
#: What runs once, or beside inferences, is made small. Counted code keeps the flags of its build.
_SMALL = dict.fromkeys(("start.c", "semihosting.c", "uart.c", "inference.c"), ("-Os",))
_INCLUDE = re.compile(r'^\s*(?:#\s*include|\.include|\.incbin)\s*(["<][^">\n]+[">]|\w+)', re.MULTILINE)
_STACK_SECTION = ".stack"
#: Room for stacks whose depth nobody knows yet.
STACK_BYTES = 4096


@dataclass(frozen=True)
class BuildKey:
    """What decides an image's code, beside its sources: figures of two images compare only where this is equal."""

    compiler: str
    version: str
    flags: tuple[str, ...]
    profile: str


@dataclass(frozen=True)
class Image:
    """A linked program.

    ``flash_bytes`` is all that is stored, ``ram_bytes`` all data without the stack, ``code_bytes`` the instructions
    with their literals.
    """

    elf: Path
    flash_bytes: int
    ram_bytes: int
    code_bytes: int
    key: BuildKey

    @cached_property
    def contents(self) -> Elf:
        """Sections and symbols."""
        return read_elf(self.elf)

    @cached_property
    def symbols(self) -> Mapping[str, int]:
        """Addresses by name."""
        return MappingProxyType({symbol.name: symbol.address for symbol in self.contents.symbols})


def build(
    sources: Sequence[Path],
    *,
    profile: Profile,
    toolchain: Toolchain,
    folder: Path,
    defines: Mapping[str, str] | None = None,
    includes: Sequence[Path] = (),
    stack_bytes: int = STACK_BYTES,
) -> Image:
    """Compile, link and measure a program for a board; start-up and semihosting are added, ``folder`` gets the image.

    Raises:
        BuildError: a source does not compile, or a name is missing at linking.
        BudgetError: the image is larger than the board's flash or RAM.
        ProfileError: the profile has no memory map for a linker.
        StorageError: the cache or ``folder`` cannot be written.
    """
    flags = (*toolchain.flags(profile.cpu), *_defines({**uart_defines(profile), **(defines or {})}))
    boards = firmware_folder() / "boards"
    job = _Job(toolchain, flags, (boards, firmware_folder() / "kernels" / "include", *includes))
    objects = _compile_all(job, (*(boards / name for name in _BOARD_SOURCES), *sources))
    script = _linker_script(profile, stack_bytes)
    linked = make_once(
        f"images/{key_of((*job.identity, script, *(path.name for path in objects)))}.elf", job.link(objects, script)
    )
    key = BuildKey(toolchain.kind, toolchain.version, flags, profile.id)
    return _measured(_copy(linked, folder), key, profile)


def _defines(defines: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(f"-D{name}={value}" for name, value in sorted(defines.items()))


@dataclass(frozen=True)
class _Job:
    toolchain: Toolchain
    flags: tuple[str, ...]
    includes: tuple[Path, ...]

    @property
    def identity(self) -> tuple[str, ...]:
        return (self.toolchain.name, *self.flags)

    def compile(self, source: Path) -> Path:
        """Return the object file of a source."""
        contents = {path: path.read_bytes() for path in _closure(source, self)}
        flags = (*self._flags_seen_by(b"\0".join(contents.values())), *_SMALL.get(source.name, ()))
        options = [f"-I{folder}" for folder in self.includes]

        def make(unfinished: Path) -> None:
            command = (*self.toolchain.command, *flags, *options, "-c", str(source), "-o", str(unfinished))
            answer = ask(command)
            if answer.status:
                raise BuildError(
                    f"{source.name} does not compile with {self.toolchain.name}: {answer.first_error}",
                    hint="correct the source; EdgeFleet's own sources compile with GCC 12 and zig 0.15 and later",
                )

        named = (part for path, text in contents.items() for part in (path.name, text))
        return make_once(f"objects/{key_of((self.toolchain.name, *flags, *named))}.o", make)

    def _flags_seen_by(self, text: bytes) -> tuple[str, ...]:
        """Leave out definitions of names that do not occur: kernels are compiled once for all models."""
        words = frozenset(re.findall(rb"\w+", text))
        return tuple(
            flag for flag in self.flags if not flag.startswith("-D") or flag[2:].partition("=")[0].encode() in words
        )

    def link(self, objects: Sequence[Path], script: str) -> "_Linking":
        return _Linking(self, tuple(objects), script)


@dataclass(frozen=True)
class _Linking:
    job: _Job
    objects: tuple[Path, ...]
    script: str

    def __call__(self, unfinished: Path) -> None:
        script = make_once(f"scripts/{key_of((self.script,))}.ld", lambda path: _write(path, self.script))
        toolchain = self.job.toolchain
        options = ("-nostdlib", "-nostartfiles", "-static", "-Wl,--gc-sections", "-T", str(script))
        runtime = "-lgcc" if toolchain.kind == "gcc" else "-lcompiler_rt"  # floats and wide divisions in software
        names = [str(path) for path in self.objects]
        answer = ask((*toolchain.command, *self.job.flags, *options, *names, "-o", str(unfinished), runtime))
        if answer.status:
            raise BuildError(
                f"the image does not link with {toolchain.name}: {answer.first_error}",
                hint="add the source that defines what is missing",
            )


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _compile_all(job: _Job, sources: Sequence[Path]) -> list[Path]:
    for source in sources:
        read_file(source, "the source")
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        return list(pool.map(job.compile, sources))


def _closure(source: Path, job: _Job) -> Iterator[Path]:
    """The source and each file that it includes, directly or not; the compiler's own headers go with its version."""
    defined = dict(flag[2:].split("=", 1) for flag in job.flags if flag.startswith("-D") and "=" in flag)
    seen: set[Path] = set()
    waiting = [source]
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        yield path
        for given in _INCLUDE.findall(path.read_text(encoding="utf-8", errors="replace")):
            name = defined.get(given, given).strip('"<>')
            found = next((folder / name for folder in (path.parent, *job.includes) if (folder / name).is_file()), None)
            if found is not None:
                waiting.append(found)


def region(profile: Profile, name: str) -> MemoryRegion:
    """Return a region of the board's memory map.

    Raises:
        ProfileError: there is none of that name.
    """
    for candidate in profile.memory.regions:
        if candidate.name == name:
            return candidate
    raise ProfileError(
        f"memory.regions of '{profile.id}' has no '{name}': a linker needs 'code' and 'data'",
        hint="add the region to the profile; docs/reference/profiles.md describes it",
    )


def _linker_script(profile: Profile, stack_bytes: int) -> str:
    script = (firmware_folder() / "boards" / "link.ld").read_text(encoding="utf-8")
    values = {
        "@CODE_ORIGIN@": f"{region(profile, 'code').origin:#x}",
        "@DATA_ORIGIN@": f"{region(profile, 'data').origin:#x}",
        "@STACK_BYTES@": str(stack_bytes),
    }
    for name, value in values.items():
        script = script.replace(name, value)
    return script


def _copy(linked: Path, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return Path(shutil.copyfile(linked, folder / "image.elf"))


def _measured(elf: Path, key: BuildKey, profile: Profile) -> Image:
    contents = read_elf(elf)
    code, data = region(profile, "code"), region(profile, "data")
    in_ram = [section for section in contents.sections if section.writable or not section.stored]
    image = Image(
        elf=elf,
        flash_bytes=_size(section for section in contents.sections if section.stored),
        ram_bytes=_size(section for section in in_ram if section.name != _STACK_SECTION),
        code_bytes=_size(section for section in contents.sections if section.executable),
        key=key,
    )
    _check(image.flash_bytes, code, profile)
    _check(_size(in_ram), data, profile)
    return image


def _size(sections: "Iterator[Section] | list[Section]") -> int:
    return sum(section.size_bytes for section in sections)


def _check(needed_bytes: int, where: MemoryRegion, profile: Profile) -> None:
    if needed_bytes > where.size_bytes:
        raise BudgetError(
            f"the image does not fit {profile.id}: it needs {needed_bytes:,} bytes of '{where.name}', "
            f"which has {where.size_bytes:,}",
            hint="use a smaller model, or a board with more memory",
        )
