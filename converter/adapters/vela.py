# SPDX-License-Identifier: Apache-2.0
"""Compile a model for an Ethos-U with Arm's vela, in a process of its own: it can crash, hang, or do nothing.

Vela ends with status 0 also where the NPU gets none of the model: what counts is which operators are left beside the
NPU's own in the file that it writes. Nothing on this machine runs that file; parity vectors come from the model before.
"""

import csv
import importlib.util
import math
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from converter.adapters.flatbuffers.offline_plan import NPU_OPERATOR, without_plan
from converter.adapters.flatbuffers.reading import read_facts
from converter.core.graph import GraphFacts
from edgefleet.contracts.errors import MissingProgramError, ProfileError, UnsupportedModelError, missing_extra
from edgefleet.contracts.profile import AcceleratorFacts
from edgefleet.runtimes.process_end import describe_end

#: Names the program, where this environment has no ``ethos-u-vela``.
PROGRAM_VARIABLE = "EDGEFLEET_VELA"
_CONFIGURATION = "Arm/vela.ini"
_DEADLINE_S = 300.0
_VERSION_DEADLINE_S = 60.0
_MODEL = "model.tflite"
_COMPILED = "model_vela.tflite"
_USAGE_STATUS = 2
_SAID_AT_MOST = 300
#: What Python, and then vela, write in front of a message.
_EXCEPTION_NAME = re.compile(r"^(?:[\w.]*(?:Error|Exception): |vela: error: )")
_KIB = 1024
_US_PER_S = 1_000_000
_NPU_DTYPES = frozenset({"int8", "uint8", "int16"})
_UPDATE = "install the release of vela that the extra 'mcu' names, or choose a profile without an NPU"
_RETRAIN = (
    "change the operators that are named, lower accelerator.minimum_npu_share, or choose a profile without an NPU"
)


@dataclass(frozen=True)
class NpuReport:
    """What vela says of a compiled model: estimates for its system configuration, not measurements.

    ``left_on_cpu`` are the names of operators that the NPU does not run, sorted, each once.
    """

    tool_version: str
    left_on_cpu: tuple[str, ...]
    cycles: int | None
    inference_us: float | None
    sram_bytes: int | None
    flash_bytes: int | None


@dataclass(frozen=True)
class Compiled:
    """A model for an NPU, the share of its operators that run there, and vela's report."""

    model: bytes
    npu_share: float
    report: NpuReport


def compile_npu(model: bytes, accelerator: AcceleratorFacts, *, deadline_s: float = _DEADLINE_S) -> Compiled:
    """Compile a quantized model for an accelerator.

    Raises:
        MissingExtraError: vela is not installed.
        MissingProgramError: the program that EDGEFLEET_VELA names cannot be started.
        ProfileError: vela does not know the accelerator, system configuration or memory mode.
        UnsupportedModelError: the model's types do not fit, vela fails, crashes or hangs on it, or the NPU would run
            less of it than the profile asks for.
    """
    program = vela_program(accelerator)
    facts = read_facts(model)
    _check_dtypes(facts, accelerator)
    with tempfile.TemporaryDirectory(prefix="edgefleet-vela-") as name:
        folder = Path(name)
        # Vela keeps a plan that is there, by numbers of tensors that it then changes: the device would not load that.
        (folder / _MODEL).write_bytes(without_plan(model))
        _run([*program, *_arguments(accelerator, folder)], facts, accelerator, deadline_s)
        compiled = _compiled(folder, accelerator)
        row = _summary(folder)
    left = _operators(compiled, accelerator)
    share = _npu_share(left, len(facts.operators))
    on_cpu = tuple(sorted({operator for operator in left if operator != NPU_OPERATOR}))
    _check_share(share, on_cpu, accelerator)
    return Compiled(compiled, share, _report(row, on_cpu, _version(program)))


def vela_program(accelerator: AcceleratorFacts) -> list[str]:
    """Return the words that start vela.

    Raises:
        MissingExtraError: it is not installed, and no program is named.
    """
    named = os.environ.get(PROGRAM_VARIABLE)
    if named:
        return [named]
    if importlib.util.find_spec("ethosu") is None:
        raise missing_extra("mcu", f"compiling a model for the NPU '{accelerator.id}'")
    return [sys.executable, "-m", "ethosu.vela"]


def _arguments(accelerator: AcceleratorFacts, folder: Path) -> list[str]:
    words = [str(folder / _MODEL), "--accelerator-config", accelerator.id, "--optimise", "Performance"]
    words += ["--output-dir", str(folder)]
    if accelerator.system_config is None or accelerator.memory_mode is None:  # vela takes both with its file, or none
        return words
    named = ["--system-config", accelerator.system_config, "--memory-mode", accelerator.memory_mode]
    return [*words, "--config", _CONFIGURATION, *named]


def _check_dtypes(facts: GraphFacts, accelerator: AcceleratorFacts) -> None:
    computed = {tensor.dtype for tensor in facts.tensors if not tensor.constant_bytes}
    if not any(t.quantized and not t.constant_bytes and t.dtype in _NPU_DTYPES for t in facts.tensors):
        raise UnsupportedModelError(
            f"the model computes in {', '.join(sorted(computed))}; "
            f"the NPU '{accelerator.id}' computes in int8 and int16",
            hint="quantize it to int8 or int16x8 with a recipe",
        )


def _run(command: list[str], facts: GraphFacts, accelerator: AcceleratorFacts, deadline_s: float) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=deadline_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UnsupportedModelError(
            f"vela did not compile the model for '{accelerator.id}' within {deadline_s:g} s",
            hint="make the model smaller, or choose a profile without an NPU",
        ) from error
    except OSError as error:
        raise MissingProgramError(
            f"vela cannot be started as '{command[0]}': {error.strerror or error}",
            hint=f"set {PROGRAM_VARIABLE} to the vela program, or install it: pip install 'edgefleet[mcu]'",
        ) from error
    if done.returncode < 0:
        raise _crashed(-done.returncode, facts, accelerator)
    said = _last_line(done.stderr)
    if done.returncode == _USAGE_STATUS or "CliOptionError" in done.stderr:
        raise ProfileError(
            f"vela does not take the profile's accelerator '{accelerator.id}': {said}",
            hint="correct [accelerator] in the profile; 'vela --list-configs Arm/vela.ini' names the configurations",
        )
    if done.returncode:
        raise UnsupportedModelError(
            f"vela cannot compile the model for '{accelerator.id}': {said}",
            hint="choose another precision, or a profile without an NPU",
        )


def _crashed(number: int, facts: GraphFacts, accelerator: AcceleratorFacts) -> UnsupportedModelError:
    small = any(tensor.dtype in ("int4", "int2") for tensor in facts.tensors)
    because = ", which has 4-bit weights" if small else ""
    return UnsupportedModelError(
        f"vela crashed ({describe_end(-number)}) on the model{because}, while compiling it for '{accelerator.id}'",
        hint="quantize all weights to int8 with a recipe" if small else "choose another precision, or no NPU",
    )


def _last_line(said: str) -> str:
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    return _EXCEPTION_NAME.sub("", lines[-1])[:_SAID_AT_MOST] if lines else "it does not say why"


def _compiled(folder: Path, accelerator: AcceleratorFacts) -> bytes:
    try:
        return (folder / _COMPILED).read_bytes()
    except OSError as error:
        raise UnsupportedModelError(f"vela ended without a model for '{accelerator.id}'", hint=_UPDATE) from error


def _operators(compiled: bytes, accelerator: AcceleratorFacts) -> list[str]:
    try:
        return [operator.name for operator in read_facts(compiled).operators]
    except UnsupportedModelError as error:
        raise UnsupportedModelError(
            f"vela wrote a file for '{accelerator.id}' that is no model: {error.message}", hint=_UPDATE
        ) from error


def _npu_share(left: list[str], before: int) -> float:
    """Return which share of a model's operators the NPU took: what it did not take is still in the graph."""
    if NPU_OPERATOR not in left:
        return 0.0
    return max(0.0, 1.0 - sum(name != NPU_OPERATOR for name in left) / before)


def _check_share(share: float, on_cpu: tuple[str, ...], accelerator: AcceleratorFacts) -> None:
    if share and share >= accelerator.minimum_npu_share:
        return
    raise UnsupportedModelError(
        f"the NPU '{accelerator.id}' would run {share:.0%} of the model's operators, "
        f"expected {accelerator.minimum_npu_share:.0%} or more (accelerator.minimum_npu_share); "
        f"left for the processor: {', '.join(on_cpu) or 'nothing'}",
        hint=_RETRAIN,
    )


def _summary(folder: Path) -> Mapping[str, str]:
    """Return the row of vela's table; an empty one where it wrote none."""
    for path in sorted(folder.glob("*_summary_*.csv")):
        with path.open(newline="", encoding="utf-8", errors="replace") as stream:
            for row in csv.DictReader(stream):
                return {name: value for name, value in row.items() if isinstance(name, str) and isinstance(value, str)}
    return {}


def _report(row: Mapping[str, str], on_cpu: tuple[str, ...], version: str) -> NpuReport:
    return NpuReport(
        tool_version=version,
        left_on_cpu=on_cpu,
        cycles=_whole(row, "cycles_total", 1),
        inference_us=_figure(row, "inference_time", _US_PER_S),
        sram_bytes=_whole(row, "sram_memory_used", _KIB),
        flash_bytes=_whole(row, "off_chip_flash_memory_used", _KIB),
    )


def _figure(row: Mapping[str, str], column: str, unit: int) -> float | None:
    """Return a figure of vela's table; what is missing, no number, or not finite, is none."""
    try:
        figure = float(row[column])
    except (KeyError, ValueError):
        return None
    return figure * unit if math.isfinite(figure) and figure >= 0 else None


def _whole(row: Mapping[str, str], column: str, unit: int) -> int | None:
    figure = _figure(row, column, unit)
    return None if figure is None else math.ceil(figure)


def _version(program: list[str]) -> str:
    try:
        done = subprocess.run(
            [*program, "--version"], capture_output=True, text=True, timeout=_VERSION_DEADLINE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip()[:_SAID_AT_MOST] or "unknown"
