# SPDX-License-Identifier: Apache-2.0
"""tflite-runtime 2.14 in a process and an environment of its own: its answers, its refusals, its deaths."""

import ast
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgefleet.contracts.errors import EdgeFleetError, MissingExtraError, ModelFailedError, UnsupportedModelError
from edgefleet.runtimes import tflite_runtime, tflite_runtime_child
from edgefleet.runtimes.litert import LiteRtInterpreter
from edgefleet.runtimes.tflite_runtime import TfliteRuntimeInterpreter, find_python

ROOT = Path(__file__).resolve().parents[2]


def _missing() -> str | None:
    try:
        find_python()
    except MissingExtraError as error:
        return error.message
    return None


needs_runtime = pytest.mark.skipif(_missing() is not None, reason=str(_missing()))


@needs_runtime
@pytest.mark.parametrize("kernels", ["production", "reference"])
def test_a_float_model_answers_as_on_litert(kernels: str, digits_model: bytes, digits_samples: np.ndarray) -> None:
    old = TfliteRuntimeInterpreter(digits_model, kernels="reference" if kernels == "reference" else "production")
    new = LiteRtInterpreter(digits_model, kernels="reference")
    assert (old.inputs, old.outputs) == (new.inputs, new.outputs)
    for sample in digits_samples:
        np.testing.assert_allclose(old.invoke([sample])[0], new.invoke([sample])[0], rtol=0, atol=1e-5)
    old.reset_state()
    old.close()


@needs_runtime
def test_what_is_no_model_is_refused_in_one_sentence() -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        TfliteRuntimeInterpreter(b"no model, but forty bytes of something else")
    assert refused.value.message.startswith("tflite-runtime 2.14.0 cannot load the model: Model provided has model ")
    assert "\n" not in refused.value.message


@needs_runtime
def test_nan_is_an_error(nan_model: bytes) -> None:
    old = TfliteRuntimeInterpreter(nan_model)
    with pytest.raises(ModelFailedError) as failed:
        old.invoke([np.zeros(old.inputs[0].shape, np.float32)])
    assert failed.value.message == f"on tflite-runtime the model answers NaN in output '{old.outputs[0].name}'"


@needs_runtime
def test_a_death_and_a_hang_are_errors_of_ours(digits_model: bytes, digits_samples: np.ndarray) -> None:
    killed = TfliteRuntimeInterpreter(digits_model)
    os.kill(killed._process.pid, signal.SIGSEGV)
    with pytest.raises(ModelFailedError) as failed:
        killed.invoke([digits_samples[0]])
    assert failed.value.message == "the model ended tflite-runtime (SIGSEGV)"
    stopped = TfliteRuntimeInterpreter(digits_model)
    stopped._deadline_s = 0.2
    os.kill(stopped._process.pid, signal.SIGSTOP)
    with pytest.raises(ModelFailedError) as failed:
        stopped.invoke([digits_samples[0]])
    assert failed.value.message == "the model did not answer on tflite-runtime within 0.2 s"


def test_an_environment_that_is_not_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, digits_model: bytes
) -> None:
    monkeypatch.setenv(tflite_runtime.PYTHON_VARIABLE, str(tmp_path / "python"))
    with pytest.raises(MissingExtraError) as caught:
        TfliteRuntimeInterpreter(digits_model)
    assert caught.value.message == (
        "checking a model on tflite-runtime 2.14.0 needs an environment of its own, "
        f"and EDGEFLEET_TFLITE_RUNTIME_PYTHON names {tmp_path / 'python'}, which is no file"
    )
    monkeypatch.delenv(tflite_runtime.PYTHON_VARIABLE)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    with pytest.raises(MissingExtraError) as caught:
        find_python()
    assert caught.value.message.endswith(f"and there is no {tmp_path / '.venv-tflite-runtime' / 'bin' / 'python'}")


def test_a_python_without_the_runtime_is_one_sentence(monkeypatch: pytest.MonkeyPatch, digits_model: bytes) -> None:
    monkeypatch.setenv(tflite_runtime.PYTHON_VARIABLE, sys.executable)
    with pytest.raises(MissingExtraError) as caught:
        TfliteRuntimeInterpreter(digits_model)
    assert caught.value.message == (
        "the Python that stands for tflite-runtime 2.14.0 cannot run it: No module named 'tflite_runtime'"
    )


def test_a_python_that_ends_at_once_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, digits_model: bytes
) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho 'ModuleNotFoundError: no numpy' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv(tflite_runtime.PYTHON_VARIABLE, str(program))
    with pytest.raises(EdgeFleetError) as caught:
        TfliteRuntimeInterpreter(digits_model)
    assert caught.value.message == ("the model ended tflite-runtime (exit status 1): ModuleNotFoundError: no numpy")
    program.chmod(0o644)
    with pytest.raises(MissingExtraError) as caught:
        TfliteRuntimeInterpreter(digits_model)
    assert caught.value.message.startswith("the Python that stands for tflite-runtime 2.14.0 cannot be started: ")


def test_the_far_end_imports_the_standard_library_and_numpy_only() -> None:
    tree = ast.parse(Path(tflite_runtime_child.__file__).read_text(encoding="utf-8"))
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) == {"numpy"}


@needs_runtime
def test_the_script_leaves_an_environment_that_runs_alone() -> None:
    folder = find_python().parents[1]
    before = (folder / "pyvenv.cfg").stat().st_mtime_ns
    done = subprocess.run(
        [ROOT / "scripts" / "make-tflite-runtime-environment", folder], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (folder / "pyvenv.cfg").stat().st_mtime_ns == before


def test_the_script_says_which_python_it_needs(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    for name in ("dirname", "sh"):
        (tmp_path / "bin" / name).symlink_to(f"/usr/bin/{name}")
    done = subprocess.run(
        [ROOT / "scripts" / "make-tflite-runtime-environment", tmp_path / "venv"],
        capture_output=True, text=True, check=False, env={"PATH": str(tmp_path / "bin")},
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (
        1, "tflite-runtime 2.14 needs Python 3.9, 3.10 or 3.11, and none was found: name one in PYTHON.\n",
    )  # fmt: skip
    assert not (tmp_path / "venv").exists()
