# SPDX-License-Identifier: Apache-2.0
"""Turn a Keras file or a SavedModel into a float TFLite model, in another process: TensorFlow never enters this one."""

from pathlib import Path

from converter.adapters.imports.process import Framework, ImportFailedError, python_with, run_import
from edgefleet.contracts.errors import UnsupportedModelError

KERAS_SUFFIXES = frozenset({".keras", ".h5", ".hdf5"})
#: What tells a SavedModel from any other folder.
SAVED_MODEL_FILE = "saved_model.pb"
#: Names the Python of another environment that has TensorFlow, where this one has not.
PYTHON_VARIABLE = "EDGEFLEET_TENSORFLOW_PYTHON"
_TENSORFLOW = Framework("tensorflow", "tensorflow", PYTHON_VARIABLE)
_ENVIRONMENT = {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
_SCRIPT = Path(__file__).with_name("keras_to_tflite.py")
_KERAS_HINT = "check that Keras loads it without custom code, or export a .tflite file from your training script"
_SAVED_HINT = "export it with one signature of fixed shapes (but for the batch), or a .tflite file"


def keras_to_tflite(path: Path) -> bytes:
    """Convert a ``.keras`` or ``.h5`` file (Keras 3, or the old format through tf-keras), or a SavedModel folder.

    Raises:
        MissingExtraError: TensorFlow is not installed.
        UnsupportedModelError: TensorFlow cannot read it, or cannot convert it.
    """
    saved = path.is_dir()
    what = f"the {'SavedModel' if saved else 'Keras file'} '{path.name}'"
    python = python_with(_TENSORFLOW, f"reading {what}")
    try:
        return run_import(python, _SCRIPT, [str(path.resolve())], _ENVIRONMENT)
    except ImportFailedError as error:
        raise UnsupportedModelError(
            f"{what} cannot be converted: {error}", hint=_SAVED_HINT if saved else _KERAS_HINT
        ) from error
