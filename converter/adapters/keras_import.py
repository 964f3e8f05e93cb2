# SPDX-License-Identifier: Apache-2.0
"""Turn a Keras file into a float TFLite model, in a process of its own, so that TensorFlow never enters this one."""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from edgefleet.contracts.errors import UnsupportedModelError, missing_extra

KERAS_SUFFIXES = frozenset({".keras", ".h5", ".hdf5"})
#: Names the Python of another environment that has TensorFlow, where this one has not.
PYTHON_VARIABLE = "EDGEFLEET_TENSORFLOW_PYTHON"
_DEADLINE_S = 900
_SCRIPT = Path(__file__).with_name("keras_to_tflite.py")


def keras_to_tflite(path: Path) -> bytes:
    """Convert a ``.keras`` or ``.h5`` file (Keras 3, or the old format through tf-keras).

    Raises:
        MissingExtraError: TensorFlow is not installed.
        UnsupportedModelError: Keras cannot read the file, or TensorFlow cannot convert it.
    """
    python = _python_with_tensorflow(path)
    with tempfile.TemporaryDirectory(prefix="edgefleet-keras-") as folder:
        out = Path(folder) / "model.tflite"
        environment = {**os.environ, "TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
        command = [python, str(_SCRIPT), str(path.resolve()), str(out)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_DEADLINE_S,
                env=environment,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _failed(path, f"{type(error).__name__}") from error
        if done.returncode or not out.is_file():
            lines = [line for line in done.stderr.strip().splitlines() if line.strip()]
            raise _failed(path, lines[-1].strip() if lines else f"exit status {done.returncode}")
        return out.read_bytes()


def _python_with_tensorflow(path: Path) -> str:
    named = os.environ.get(PYTHON_VARIABLE)
    if named:
        return named
    if importlib.util.find_spec("tensorflow") is None:
        raise missing_extra("tensorflow", f"reading the Keras file '{path.name}'")
    return sys.executable


def _failed(path: Path, why: str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"the Keras file '{path.name}' cannot be converted: {why[:300]}",
        hint="check that Keras loads it without custom code, or export a .tflite file from your training script",
    )
