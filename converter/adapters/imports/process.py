# SPDX-License-Identifier: Apache-2.0
"""Run a script that writes a TFLite model with a heavy framework, in a process of its own; and name what it wrote."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from ai_edge_litert.tools import flatbuffer_utils

from converter.adapters.flatbuffers.reading import read_model
from edgefleet.contracts.errors import EdgeFleetError, missing_extra

_DEADLINE_S = 900
_LONGEST_REASON = 300


class ImportFailedError(Exception):
    """The child could not make a model; the text says why in one line."""


class Framework(NamedTuple):
    """A framework that models come from: the module to look for, its extra, and who names another environment."""

    module: str
    extra: str
    python_variable: str


def python_with(framework: Framework, needed_for: str) -> str:
    """Return the Python that has the framework: the one that the environment names, or this one.

    Raises:
        MissingExtraError: neither has it.
    """
    named = os.environ.get(framework.python_variable)
    if named:
        return named
    if importlib.util.find_spec(framework.module) is None:
        raise _missing(framework, needed_for)
    return sys.executable


def run_import(python: str, script: Path, arguments: Sequence[str], environment: Mapping[str, str]) -> bytes:
    """Run ``python script ARGUMENTS OUT`` and return the model that it wrote to OUT, its tensors named.

    Inputs and outputs get the names of the model's one signature, and outputs those of the list in ``OUT.names``
    (JSON), where the script wrote one.

    Raises:
        ImportFailedError: the child ended otherwise than well, or took longer than 15 minutes.
    """
    with tempfile.TemporaryDirectory(prefix="edgefleet-import-") as folder:
        out = Path(folder) / "model.tflite"
        try:
            done = subprocess.run(
                [python, str(script), *arguments, str(out)],
                capture_output=True, text=True, errors="replace", timeout=_DEADLINE_S, check=False,
                env={**os.environ, **environment},
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise ImportFailedError(type(error).__name__) from error
        if done.returncode or not out.is_file():
            lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
            reason = lines[-1].strip() if lines else f"exit status {done.returncode}"
            raise ImportFailedError(reason[:_LONGEST_REASON])
        names = out.with_suffix(".names")
        listed = msgspec.json.decode(names.read_bytes(), type=list[str]) if names.is_file() else []
        return with_plain_names(out.read_bytes(), listed)


def with_plain_names(data: bytes, output_names: Sequence[str] = ()) -> bytes:
    """Return the model with inputs and outputs named as its author did, so that samples are found by these names.

    A signature's names count, and ``output_names`` (in the order of the outputs) where there is none. Names that two
    tensors would share are left as they are.
    """
    model = read_model(data)
    graph = model.subgraphs[0]
    wanted: dict[int, str] = dict(zip(map(int, graph.outputs), output_names, strict=False))
    signatures = model.signatureDefs or []
    if len(signatures) == 1:
        named = [*signatures[0].inputs, *signatures[0].outputs]
        wanted |= {int(entry.tensorIndex): _text(entry.name) for entry in named}
    others = {_text(tensor.name) for number, tensor in enumerate(graph.tensors) if number not in wanted}
    if not wanted or len(set(wanted.values())) < len(wanted) or others & set(wanted.values()):
        return data
    for number, name in wanted.items():
        graph.tensors[number].name = name.encode()
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _missing(framework: Framework, needed_for: str) -> EdgeFleetError:
    error = missing_extra(framework.extra, needed_for)
    return type(error)(
        error.message,
        hint=f"{error.hint} (or name the Python of an environment that has it in {framework.python_variable})",
    )
