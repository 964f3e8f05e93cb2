# SPDX-License-Identifier: Apache-2.0
"""How deep an image's stack can get, proved from its machine code.

Each function is read once from its first instruction to its last, following what is taken from the stack and given
back along its jumps; a call counts at the depth at which it stands. The answer is the deepest path from the start-up to
any leaf, so it holds for GCC, for zig and for assembly alike, which -fstack-usage does not. Interrupts come on top.

Calls through pointers are followed where it is known what the pointers can be: :data:`RUNTIME_POINTERS` says so for the
kernels' runtime, the caller for anything else. Where it is not known, and where functions call themselves, there is no
bound, and an error says so.
"""

import re
from abc import ABC, abstractmethod
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import cached_property

from edgefleet.boards.elf import Symbol
from edgefleet.boards.images import Image
from edgefleet.boards.programs import ask, on_path
from edgefleet.boards.toolchains import Toolchain
from edgefleet.contracts.errors import BuildError, MissingProgramError

_KERNELS = ("ef_*_portable_*", "ef_*_dsp_*", "ef_*_helium_*")
#: Who calls through pointers, and what these can be: shell patterns of functions.
RUNTIME_POINTERS: Mapping[str, tuple[str, ...]] = {
    "ef_open": ("ef_check_*",),
    "ef_bind": ("kernel_of", *_KERNELS),
    "ef_invoke": ("kernel_of", "after_layer", *_KERNELS),
    "run_layers*": ("kernel_of", "after_layer", *_KERNELS),
    # firmware/kernels/dsp/conv2d.c: a variant's inner loops
    "convolve*": ("finish_*", "ef_conv2d_widen*"),
    "widen*": ("ef_conv2d_widen*",),
    "finish_*": ("ef_conv2d_block_*",),
}
#: Whose pointers a program may leave out: nothing to check in a constant blob.
_MAY_BE_NULL = frozenset({"ef_open"})
_ROOT = "board_start"
_LINE = re.compile(r"^ *([0-9a-f]+):\t(\S+)[ \t]*(.*)$", re.MULTILINE)
_TARGET = re.compile(r"(?:^|[\s,])(?:0x)?([0-9a-f]+) <[^>]+>\s*$")
_CONDITIONS = "eq|ne|cs|cc|hs|lo|mi|pl|vs|vc|hi|ls|ge|lt|gt|le"
_NUMBER = r"#?(-?\d+|-?0x[0-9a-f]+)"


@dataclass(frozen=True)
class StackBound:
    """The most bytes that the stack can take, and the calls that take them: function and bytes of its own."""

    bytes: int
    path: tuple[tuple[str, int], ...]


def stack_bound(
    image: Image, toolchain: Toolchain, *, pointers: Mapping[str, Sequence[str]] | None = None, root: str = _ROOT
) -> StackBound:
    """Return the bound of an image, from ``root`` on; ``pointers`` adds to :data:`RUNTIME_POINTERS`.

    Raises:
        MissingProgramError: the disassembler is not installed.
        BuildError: there is no bound (recursion, an unknown pointer, a frame whose size is not a constant).
    """
    functions = _functions(image, toolchain)
    return _Search(functions, {**RUNTIME_POINTERS, **(pointers or {})}).deepest(root)


@dataclass(frozen=True)
class _Instruction:
    address: int
    name: str
    operands: str

    @cached_property
    def target(self) -> int | None:
        """Where a direct jump or call goes."""
        found = _TARGET.search(self.operands)
        return int(found[1], 16) if found else None


@dataclass(frozen=True)
class _Call:
    depth: int
    callee: str | None  # None: through a pointer


@dataclass
class _Function:
    name: str
    own_bytes: int = 0
    calls: list[_Call] = field(default_factory=list)


class _Search:
    """The deepest path, function by function."""

    def __init__(self, functions: Mapping[str, _Function], pointers: Mapping[str, Sequence[str]]) -> None:
        self._functions = functions
        self._pointers = pointers
        self._known: dict[str, StackBound] = {}
        self._open: list[str] = []

    def deepest(self, name: str) -> StackBound:
        """Return the bound from one function on."""
        if name in self._known:
            return self._known[name]
        if name in self._open:
            circle = " calls ".join([*self._open[self._open.index(name) :], name])
            raise _no_bound(f"{circle}: recursion")
        if name not in self._functions:
            raise _no_bound(f"{name} is not in the image")
        self._open.append(name)
        function = self._functions[name]
        best = StackBound(function.own_bytes, ((name, function.own_bytes),))
        for call in function.calls:
            for callee in self._callees(name, call):
                below = self.deepest(callee)
                if call.depth + below.bytes > best.bytes:
                    best = StackBound(call.depth + below.bytes, ((name, call.depth), *below.path))
        self._open.pop()
        self._known[name] = best
        return best

    def _callees(self, caller: str, call: _Call) -> Sequence[str]:
        if call.callee is not None:
            return (call.callee,)
        patterns = [pattern for who, these in self._pointers.items() if fnmatchcase(caller, who) for pattern in these]
        if not patterns:
            raise _no_bound(f"{caller} calls through a pointer, and nothing says what that can be")
        found = [name for name in self._functions if any(fnmatchcase(name, pattern) for pattern in patterns)]
        if not found and caller not in _MAY_BE_NULL:
            raise _no_bound(f"{caller} calls through a pointer, and none of {', '.join(patterns)} is in the image")
        return found


def _no_bound(reason: str) -> BuildError:
    return BuildError(
        f"the stack has no bound: {reason}",
        hint="call functions directly, or say what pointers can be (RUNTIME_POINTERS in edgefleet/boards/stack.py)",
    )


def _functions(image: Image, toolchain: Toolchain) -> Mapping[str, _Function]:
    objdump = on_path(toolchain.objdump)
    if objdump is None:
        package = "binutils-arm-none-eabi" if toolchain.family == "arm" else "binutils-riscv64-unknown-elf"
        raise MissingProgramError(
            f"the stack's bound is read from machine code by '{toolchain.objdump}', which is not installed"
            + (" (zig brings no disassembler)" if toolchain.kind == "zig" else ""),
            hint=f"run: apt-get install {package}",
        )
    answer = ask((objdump, "-d", "--no-show-raw-insn", str(image.elf)))
    if answer.status:
        raise BuildError(f"'{image.elf.name}' cannot be disassembled: {answer.first_error}", hint="build it again")
    code = [_Instruction(int(at, 16), name, rest.strip()) for at, name, rest in _LINE.findall(answer.text)]
    symbols = _symbols(image)
    starts = _names(symbols)
    read = _ArmReader if toolchain.family == "arm" else _RiscvReader
    bodies = _bodies(code, symbols)
    return {starts[at]: read(starts[at], starts).function(body) for at, body in bodies if body}


def _symbols(image: Image) -> dict[int, Symbol]:
    """Functions by address; of two names for one, the shorter."""
    functions = (symbol for symbol in image.contents.symbols if symbol.function)
    ordered = sorted(functions, key=lambda symbol: (-len(symbol.name), symbol.name))
    return {symbol.address & ~1: symbol for symbol in ordered}


def _names(symbols: Mapping[int, Symbol]) -> dict[int, str]:
    """A name of its own for each function: static ones of several files may share theirs."""
    names: dict[int, str] = {}
    for address, symbol in sorted(symbols.items()):
        taken = sum(1 for name in names.values() if name.partition(" ")[0] == symbol.name)
        names[address] = f"{symbol.name} ({taken + 1})" if taken else symbol.name
    return names


def _bodies(code: Sequence[_Instruction], symbols: Mapping[int, Symbol]) -> Iterator[tuple[int, list[_Instruction]]]:
    """Each function's instructions; what fills the space to the next one is left out."""
    addresses = [instruction.address for instruction in code]
    ordered = sorted(symbols)
    for start, following in zip(ordered, [*ordered[1:], addresses[-1] + 4], strict=True):
        size = symbols[start].size_bytes or following - start
        yield start, list(code[bisect_left(addresses, start) : bisect_left(addresses, start + size)])


class _Reader(ABC):
    """Follows the stack pointer through one function. Subclasses know an instruction set."""

    def __init__(self, name: str, starts: Mapping[int, str]) -> None:
        self._name = name
        self._starts = starts

    def function(self, body: Sequence[_Instruction]) -> _Function:
        """Return what the function takes itself, and its calls with their depths.

        A jump carries its depth to its target. Where no jump leads and no instruction falls through (a jump table, a
        loop's head), the depth is taken to be the most so far. A jump through a register is a jump table where the
        function still has something on the stack, and else the call of another function that it ends with.
        """
        function = _Function(self._name)
        first, last = body[0].address, body[-1].address
        at_label: dict[int, int] = {}
        depth: int | None = 0
        for instruction in body:
            arriving = [value for value in (depth, at_label.get(instruction.address)) if value is not None]
            depth = max(arriving) if arriving else function.own_bytes
            depth = self.depth_after(instruction, depth)
            function.own_bytes = max(function.own_bytes, depth)
            target = instruction.target if self.jumps(instruction) else None
            if target is not None and first <= target <= last and (target != first or not self.calls(instruction)):
                at_label[target] = max(depth, at_label.get(target, 0))
            elif target is not None:
                function.calls.append(_Call(depth, self._owner(target)))
            elif self.calls_pointer(instruction) and not (depth and self.ends(instruction)):
                function.calls.append(_Call(depth, None))
            if self.ends(instruction):
                depth = None
        return function

    def _owner(self, target: int) -> str:
        return self._starts[max((start for start in self._starts if start <= target), default=target)]

    def _unknown(self, instruction: _Instruction) -> BuildError:
        return _no_bound(
            f"{self._name} moves its stack by what is no constant ({instruction.name} {instruction.operands})"
        )

    @abstractmethod
    def depth_after(self, instruction: _Instruction, depth: int) -> int:
        """Return the bytes that the function has on the stack behind an instruction."""

    @abstractmethod
    def jumps(self, instruction: _Instruction) -> bool:
        """Tell whether it may go to its target: a branch or a call."""

    @abstractmethod
    def calls(self, instruction: _Instruction) -> bool:
        """Tell whether it comes back."""

    @abstractmethod
    def calls_pointer(self, instruction: _Instruction) -> bool:
        """Tell whether it calls, or ends with a jump, through a register."""

    @abstractmethod
    def ends(self, instruction: _Instruction) -> bool:
        """Tell whether what stands behind it is reached only by jumps."""


class _ArmReader(_Reader):
    """Thumb and Thumb-2, as binutils writes them."""

    _BRANCH = re.compile(rf"(b({_CONDITIONS})?(\.[nw])?|bl(\.w)?|cbn?z|w?les?tp?|le|wlstp\.\d+|letp)")
    _JUMP = re.compile(r"b(\.[nw])?")
    _SPARE = re.compile(rf"(push|stmdb|pop|ldmia|ldm|vpush|vpop|sub|add|str|strd|ldr|ldrd)({_CONDITIONS})?(\.w|\.n|w)?")
    _STORED_BEFORE = re.compile(rf".*\[sp, {_NUMBER}\]!")
    _LOADED_AFTER = re.compile(rf".*\[sp\], {_NUMBER}")
    _BY_NUMBER = re.compile(rf"sp, (?:sp, )?{_NUMBER}")
    _KEPT = re.compile(rf"(?:mov|add)(?:\.w|w)? (\w+), sp(?:, {_NUMBER})?")
    _ALIGNED = re.compile(r"bfc (\w+), #0, #(\d+)")
    _RESTORED = re.compile(rf"(?:mov|sub)(?:\.w|w)? sp, (?!sp\b)(\w+)(?:, {_NUMBER})?")

    def __init__(self, name: str, starts: Mapping[int, str]) -> None:
        super().__init__(name, starts)
        self._kept: dict[str, int] = {}

    def depth_after(self, instruction: _Instruction, depth: int) -> int:
        self._keep(instruction, depth)
        if found := self._RESTORED.fullmatch(f"{instruction.name} {instruction.operands}"):
            if found[1] not in self._kept:
                raise self._unknown(instruction)
            return self._kept[found[1]] + int(found[2] or "0", 0)
        match = self._SPARE.fullmatch(instruction.name)
        change = self._change(match[1], instruction) if match else 0
        # a conditional pop is a return: what follows has the depth from before it
        return depth + (max(change, 0) if match and match[2] else change)

    def _keep(self, instruction: _Instruction, depth: int) -> None:
        """Remember what a frame pointer is worth, and by how much aligning it can deepen the stack."""
        text = f"{instruction.name} {instruction.operands}"
        if found := self._KEPT.fullmatch(text):
            self._kept[found[1]] = depth - int(found[2] or "0", 0)
        elif (found := self._ALIGNED.fullmatch(text)) and found[1] in self._kept:
            self._kept[found[1]] += (1 << int(found[2])) - 1

    def _change(self, name: str, instruction: _Instruction) -> int:
        operands = instruction.operands.partition(";")[0].partition("@")[0].strip()
        if name in {"push", "vpush"} or (name == "stmdb" and operands.startswith("sp!")):
            return _list_bytes(operands)
        if name in {"pop", "vpop"} or (name in {"ldmia", "ldm"} and operands.startswith("sp!")):
            return -_list_bytes(operands)
        if name in {"str", "strd"} and (found := self._STORED_BEFORE.fullmatch(operands)):
            return -int(found[1], 0)
        if name in {"ldr", "ldrd"} and (found := self._LOADED_AFTER.fullmatch(operands)):
            return -int(found[1], 0)
        if name in {"sub", "add"} and operands.startswith("sp,"):
            if not (found := self._BY_NUMBER.fullmatch(operands)):
                raise self._unknown(instruction)
            return int(found[1], 0) if name == "sub" else -int(found[1], 0)
        return 0

    def jumps(self, instruction: _Instruction) -> bool:
        return self._BRANCH.fullmatch(instruction.name) is not None

    def calls(self, instruction: _Instruction) -> bool:
        return instruction.name.startswith("bl") and not re.fullmatch(rf"b({_CONDITIONS})(\.[nw])?", instruction.name)

    def calls_pointer(self, instruction: _Instruction) -> bool:
        name, operands = instruction.name, instruction.operands
        return name.startswith("blx") or (name.startswith("bx") and operands != "lr")

    def ends(self, instruction: _Instruction) -> bool:
        name, operands = instruction.name, instruction.operands
        return (
            self._JUMP.fullmatch(name) is not None
            or name in {"bx", "tbb", "tbh", "udf"}
            or (
                name in {"pop", "ldmia.w", "ldr", "ldr.w", "mov", "add", "ldm.w"}
                and re.search(r"\bpc\b", _written(name, operands)) is not None
            )
        )


def _written(name: str, operands: str) -> str:
    """The registers that a load, move or pop writes."""
    return operands if name.startswith(("pop", "ldm")) else operands.partition(",")[0]


def _list_bytes(operands: str) -> int:
    """Bytes of a register list: ``{r4, r5, lr}``, ``{r4-r11, pc}``, ``{d8-d15}``."""
    total = 0
    for part in operands.partition("{")[2].partition("}")[0].replace(" ", "").split(","):
        low, _, high = part.partition("-")
        count = int(high[1:]) - int(low[1:]) + 1 if high else 1
        total += count * (8 if low.startswith("d") else 4)
    return total


class _RiscvReader(_Reader):
    """RV32IMAC, as binutils writes it."""

    _BRANCHES = frozenset({"beqz", "bnez", "blez", "bgez", "bltz", "bgtz", "beq", "bne", "blt", "bge", "bltu", "bgeu"})
    _BY_NUMBER = re.compile(rf"sp,sp,{_NUMBER}")

    def depth_after(self, instruction: _Instruction, depth: int) -> int:
        operands = instruction.operands.partition("#")[0].strip()
        if instruction.name in {"sw", "lw", "sb", "lb", "lbu", "sh", "lh", "lhu"} or not operands.startswith("sp,"):
            return depth
        if instruction.name in {"add", "addi"} and (found := self._BY_NUMBER.fullmatch(operands)):
            return depth - int(found[1], 0)
        if self._name == "board_reset":
            return depth  # sets the stack up
        raise self._unknown(instruction)

    def jumps(self, instruction: _Instruction) -> bool:
        return instruction.name in {"j", "jal", "jalr", "jr", *self._BRANCHES}

    def calls(self, instruction: _Instruction) -> bool:
        name, operands = instruction.name, instruction.operands
        return (name == "jal" and not operands.startswith("zero")) or (
            name == "jalr" and not operands.startswith("zero")
        )

    def calls_pointer(self, instruction: _Instruction) -> bool:
        return instruction.name == "jalr" or (instruction.name == "jr" and instruction.operands != "ra")

    def ends(self, instruction: _Instruction) -> bool:
        return instruction.name in {"j", "jr", "ret", "unimp"}
