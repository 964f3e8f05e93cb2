# SPDX-License-Identifier: Apache-2.0
"""A zoo of small models as people deploy them, made by TensorFlow.

    python -m benchmarks.tensorflow_zoo FOLDER [NAME …]

Writes for each model NAME.tflite (float), NAME.npz (samples by the name of the input), and what TensorFlow's own
converter makes of it: NAME.int8.tflite, NAME.int8_float_ends.tflite, NAME.int16x8.tflite, NAME.dynamic.tflite,
NAME.float16.tflite and NAME.int8_per_tensor.tflite. What TensorFlow refuses is printed and left out.
"""

import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

from benchmarks.tensorflow_zoo_models import ZOO

layers = tf.keras.layers
Model = tf.keras.Model
_SAMPLES = 24


def main() -> None:
    folder, names = Path(sys.argv[1]), sys.argv[2:] or list(ZOO)
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        tf.keras.utils.set_random_seed(sorted(ZOO).index(name) + 1)
        try:
            _make(folder, name)
        except Exception as error:  # noqa: BLE001  # TensorFlow raises many kinds for what it cannot convert
            print(f"{name}: {type(error).__name__}: {str(error).strip().splitlines()[0]}", flush=True)
        tf.keras.backend.clear_session()


def _make(folder: Path, name: str) -> None:
    built = ZOO[name]()
    if isinstance(built, Model):
        _settle_norms(built)
    float_model = _converter(built).convert()
    (folder / f"{name}.tflite").write_bytes(float_model)
    samples = _samples(float_model)
    np.savez(folder / f"{name}.npz", **(samples if len(samples) > 1 else {"x": next(iter(samples.values()))}))
    for variant, change in VARIANTS.items():
        converter = _converter(built)
        change(converter)
        if variant not in _WITHOUT_SAMPLES:
            converter.representative_dataset = lambda: _batches(samples)
        try:
            (folder / f"{name}.{variant}.tflite").write_bytes(converter.convert())
        except Exception as error:  # noqa: BLE001  # see above
            print(f"{name}.{variant}: {type(error).__name__}: {str(error).strip().splitlines()[0]}", flush=True)


def _settle_norms(model: Model) -> None:
    """Give batch norms statistics other than 0 and 1."""
    draw = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            gamma, beta, mean, variance = layer.get_weights()
            layer.set_weights([
                gamma * draw.uniform(0.5, 1.5, gamma.shape), beta + draw.normal(0, 0.2, beta.shape),
                mean + draw.normal(0, 0.2, mean.shape), variance * draw.uniform(0.2, 2.0, variance.shape),
            ])  # fmt: skip


def _converter(built: Any) -> Any:
    if hasattr(built, "save") and not isinstance(built, Model):  # the older Keras's
        folder = tempfile.mkdtemp(prefix="zoo-")
        built.save(folder, save_format="tf")
        return tf.lite.TFLiteConverter.from_saved_model(folder)
    if not isinstance(built, Model):
        converter = tf.lite.TFLiteConverter.from_concrete_functions([built.__call__.get_concrete_function()], built)
        converter.experimental_enable_resource_variables = True
        return converter
    specs = [tf.TensorSpec([each.shape[0] or 1, *each.shape[1:]], each.dtype, name=each.name) for each in built.inputs]
    function = tf.function(lambda *given: built(list(given) if len(given) > 1 else given[0], training=False))
    frozen = convert_variables_to_constants_v2(function.get_concrete_function(*specs))
    return tf.lite.TFLiteConverter.from_concrete_functions([frozen])


def _samples(model: bytes) -> dict[str, Any]:
    draw = np.random.default_rng(2)
    details = tf.lite.Interpreter(model_content=model).get_input_details()
    return {detail["name"]: _sample(draw, detail) for detail in details}


def _sample(draw: np.random.Generator, detail: dict[str, Any]) -> Any:
    shape = (_SAMPLES, *detail["shape"][1:]) if detail["shape"][0] == 1 else (_SAMPLES, *detail["shape"])
    if np.dtype(detail["dtype"]).kind == "i":
        return draw.integers(0, 50, shape).astype(detail["dtype"])
    levels = draw.normal(size=(_SAMPLES, *[1] * (len(shape) - 2), shape[-1]))
    return (draw.normal(size=shape) * 0.5 + levels).astype(np.float32)


def _batches(samples: dict[str, Any]) -> Iterator[list[Any]]:
    for number in range(_SAMPLES):
        yield [
            values[number] if values.shape[1:2] == (4,) and values.ndim == 5 else values[number : number + 1]
            for values in samples.values()
        ]


def _integers(converter: Any, operators: Any, ends: Any) -> None:
    _default(converter)
    converter.target_spec.supported_ops = [operators]
    converter.inference_input_type = converter.inference_output_type = ends


def _int8(converter: Any) -> None:
    _integers(converter, tf.lite.OpsSet.TFLITE_BUILTINS_INT8, tf.int8)


def _default(converter: Any) -> None:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]


def _int16x8(converter: Any) -> None:
    wide = tf.lite.OpsSet.EXPERIMENTAL_TFLITE_BUILTINS_ACTIVATIONS_INT16_WEIGHTS_INT8
    _integers(converter, wide, tf.int16)


def _float16(converter: Any) -> None:
    _default(converter)
    converter.target_spec.supported_types = [tf.float16]


def _per_tensor(converter: Any) -> None:
    _int8(converter)
    converter._experimental_disable_per_channel = True


VARIANTS: dict[str, Callable[[Any], None]] = {
    "int8": _int8,
    "int8_float_ends": _default,
    "int16x8": _int16x8,
    "dynamic": _default,
    "float16": _float16,
    "int8_per_tensor": _per_tensor,
}
_WITHOUT_SAMPLES = ("dynamic", "float16")


if __name__ == "__main__":
    main()
