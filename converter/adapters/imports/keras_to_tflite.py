# SPDX-License-Identifier: Apache-2.0
"""``python keras_to_tflite.py IN OUT``: runs where TensorFlow is installed, and imports nothing else of EdgeFleet.

IN is a Keras file or a SavedModel folder. Keras 3 is tried first; files of the old format need tf-keras
(TF_USE_LEGACY_KERAS=1 is set by the caller). The names of a Keras model's outputs go to OUT with the suffix ``.names``.
"""

import json
import sys
from pathlib import Path
from typing import Any

_SIGNATURE = "serving_default"


def main() -> None:
    """Convert with a batch of one, in float."""
    source, out = sys.argv[1], Path(sys.argv[2])
    if Path(source).is_dir():
        out.write_bytes(_convert_saved_model(source))
        return
    data, names = _convert_keras(source)
    out.with_suffix(".names").write_text(json.dumps(names))
    out.write_bytes(data)


def _convert_keras(source: str) -> tuple[bytes, list[str]]:
    import tensorflow as tf

    model = _load(source)
    specs = [tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype, name=_plain(tensor.name)) for tensor in model.inputs]
    traced = tf.function(lambda *inputs: model(inputs if len(inputs) > 1 else inputs[0], training=False))
    concrete = traced.get_concrete_function(*specs)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete])
    return converter.convert(), _output_names(model, concrete.structured_outputs)


def _convert_saved_model(folder: str) -> bytes:
    import tensorflow as tf

    signatures = tf.saved_model.load(folder).signatures
    names = sorted(signatures)
    if _SIGNATURE not in names and len(names) != 1:
        raise SystemExit(f"it has the signatures {names}, expected '{_SIGNATURE}' or one alone")
    chosen = _SIGNATURE if _SIGNATURE in names else names[0]
    for name, spec in signatures[chosen].structured_input_signature[1].items():
        if spec.shape.rank is None or any(size is None for size in spec.shape[1:]):
            raise SystemExit(f"its input '{name}' has the shape {spec.shape}, expected fixed sizes behind the batch")
    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[chosen])
    return bytes(converter.convert())


def _output_names(model: Any, outputs: Any) -> list[str]:
    """Return names in the order of the converted outputs: a dictionary's keys (sorted), else Keras' own, else none."""
    if isinstance(outputs, dict):
        return sorted(map(str, outputs))
    names = list(getattr(model, "output_names", None) or [])
    count = len(outputs) if isinstance(outputs, (list, tuple)) else 1
    return names if len(names) == count else []


def _load(path: str) -> Any:
    try:
        import keras

        return keras.models.load_model(path, compile=False)
    except Exception as newer:  # noqa: BLE001  # whatever Keras 3 cannot read, tf-keras may
        import tf_keras

        try:
            return tf_keras.models.load_model(path, compile=False)
        except Exception as older:  # noqa: BLE001  # the message of the format that the file has is the one to show
            raise (newer if path.endswith(".keras") else older) from None


def _plain(name: str) -> str:
    return name.partition(":")[0].rpartition("/")[2]


if __name__ == "__main__":
    sys.path.pop(0)  # this file's folder: a name in it must not stand for a package's
    main()
