# SPDX-License-Identifier: Apache-2.0
"""``python keras_to_tflite.py IN OUT``: runs where TensorFlow is installed, and imports nothing else of EdgeFleet.

Keras 3 is tried first; files of the old format need tf-keras (TF_USE_LEGACY_KERAS=1 is set by the caller).
"""

import sys
from pathlib import Path
from typing import Any


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


def main() -> None:
    """Convert with a batch of one, in float."""
    import tensorflow as tf

    model = _load(sys.argv[1])
    specs = [tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype, name=_plain(tensor.name)) for tensor in model.inputs]
    concrete = tf.function(lambda *inputs: model(inputs if len(inputs) > 1 else inputs[0], training=False))
    converter = tf.lite.TFLiteConverter.from_concrete_functions([concrete.get_concrete_function(*specs)])
    Path(sys.argv[2]).write_bytes(converter.convert())


def _plain(name: str) -> str:
    return name.partition(":")[0].rpartition("/")[2]


if __name__ == "__main__":
    main()
