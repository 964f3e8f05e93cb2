# SPDX-License-Identifier: Apache-2.0
"""Trains the models of small_models and quantizes them with TensorFlow. Imports nothing else of this repository.

python tensorflow_small_models.py DIGITS.npz OUT_FOLDER [NAME …]

Each model leaves NAME_float.tflite, NAME_tensorflow.tflite and NAME.npz: calibration, evaluation, labels.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from tensorflow import keras

layers = keras.layers
_SIZE = 16
_TRAINED, _CALIBRATED, _EVALUATED = 6000, 100, 6000


def normalized(x: Any, filters: int, *, kernel: int = 3, strides: int = 1, activation: str = "relu") -> Any:
    x = layers.Conv2D(filters, kernel, strides, "same", use_bias=False)(x)
    return layers.Activation(activation)(layers.BatchNormalization(momentum=0.9)(x))


def depthwise(x: Any, filters: int, strides: int, activation: str) -> Any:
    x = layers.DepthwiseConv2D(3, strides, "same", use_bias=False)(x)
    x = layers.Activation(activation)(layers.BatchNormalization(momentum=0.9)(x))
    return normalized(x, filters, kernel=1, activation=activation)


def classified(inputs: Any, x: Any) -> Any:
    return keras.Model(inputs, layers.Dense(10, "softmax")(x))


def plain() -> Any:
    x = inputs = layers.Input((_SIZE, _SIZE, 1))
    for filters in (16, 32):
        x = layers.MaxPooling2D()(layers.Conv2D(filters, 3, activation="relu")(x))
    return classified(inputs, layers.Dense(64, "relu")(layers.Flatten()(x)))


def residual() -> Any:
    inputs = layers.Input((_SIZE, _SIZE, 1))
    x = normalized(inputs, 16)
    for filters, strides in ((16, 1), (32, 2), (48, 2)):
        y = normalized(normalized(x, filters, strides=strides), filters, activation="linear")
        x = x if strides == 1 else layers.Conv2D(filters, 1, strides, "same")(x)
        x = layers.Activation("relu")(layers.Add()([x, y]))
    return classified(inputs, layers.GlobalAveragePooling2D()(x))


def separable() -> Any:
    inputs = layers.Input((_SIZE, _SIZE, 1))
    x = normalized(inputs, 8, activation="relu6")
    for filters, strides in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1)):
        x = depthwise(x, filters, strides, "relu6")
    return classified(inputs, layers.GlobalAveragePooling2D()(x))


def keywords() -> Any:
    inputs = layers.Input((_SIZE, _SIZE, 1))
    x = layers.Activation("relu")(layers.BatchNormalization(momentum=0.9)(layers.Conv2D(32, (6, 4), 2, "same")(inputs)))
    for _ in range(3):
        x = depthwise(x, 32, 1, "relu")
    return classified(inputs, layers.Flatten()(layers.AveragePooling2D(8)(x)))


def attentive() -> Any:
    inputs = layers.Input((_SIZE, _SIZE, 1))
    x = normalized(inputs, 12, activation="hard_silu")
    for filters, strides in ((16, 1), (24, 2), (40, 2)):
        y = depthwise(x, 2 * filters, strides, "hard_silu")
        gate = layers.Conv2D(8, 1, activation="relu")(layers.GlobalAveragePooling2D(keepdims=True)(y))
        y = layers.Multiply()([y, layers.Conv2D(2 * filters, 1, activation="hard_sigmoid")(gate)])
        x = normalized(y, filters, kernel=1, activation="linear")
    return classified(inputs, layers.GlobalAveragePooling2D()(x))


def values() -> Any:
    x = inputs = layers.Input((16,))
    for _ in range(2):
        x = layers.Dense(48, "relu")(x)
    return keras.Model(inputs, layers.Dense(2)(x))


def anomalies() -> Any:
    x = inputs = layers.Input((64,))
    for width in (48, 12, 48):
        x = layers.Dense(width, "relu")(x)
    return keras.Model(inputs, layers.Dense(64)(x))


def digit_pictures(digits: Path, count: int, seed: int) -> tuple[Any, Any]:
    """Return digits shifted, lit and covered with noise, so that no model is sure of all."""
    with np.load(digits) as stored:
        x = np.concatenate([stored[f"{part}_x"] for part in ("train", "live")]).astype(np.float32) / 16.0
        y = np.concatenate([stored[f"{part}_y"] for part in ("train", "live")])
    chance = np.random.default_rng(seed)
    chosen = chance.integers(0, len(x), count)
    large = np.repeat(np.repeat(x[chosen], 2, 1), 2, 2)
    moved = np.stack([np.roll(one, chance.integers(-2, 3, 2), (0, 1)) for one in large])
    lit = moved * chance.uniform(0.5, 1.3, (count, 1, 1, 1)) + chance.normal(0.0, 0.25, moved.shape)
    return lit.astype(np.float32), y[chosen].astype(np.int64)


def table(count: int, seed: int) -> tuple[Any, Any]:
    chance = np.random.default_rng(seed)
    x = chance.normal(0.0, 1.0, (count, 16)) * np.geomspace(0.3, 5.0, 16) + np.linspace(-2.0, 2.0, 16)
    y = np.stack([np.sin(3.0 * x[:, 0]) + 0.5 * x[:, 5], 0.2 * x[:, 10] * x[:, 2]], axis=1)
    return x.astype(np.float32), (y + chance.normal(0.0, 0.05, y.shape)).astype(np.float32)


def waves(count: int, seed: int, *, broken: float = 0.0) -> tuple[Any, Any]:
    """Return sine waves; a share of them ends in noise, which is label 1."""
    chance = np.random.default_rng(seed)
    at = np.linspace(0.0, 1.0, 64)
    tones = chance.uniform(2.0, 4.0, (count, 1)) * at + chance.uniform(0.0, 1.0, (count, 1))
    x = chance.uniform(0.5, 2.0, (count, 1)) * np.sin(2.0 * np.pi * tones) + chance.normal(0.0, 0.05, (count, 64))
    labels = (np.arange(count) < broken * count).astype(np.int64)
    late = at > chance.uniform(0.3, 0.8, (count, 1))
    return (x + labels[:, np.newaxis] * late * chance.normal(0.0, 0.5, x.shape)).astype(np.float32), labels


def main() -> None:
    digits, out, wanted = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    keras.utils.set_random_seed(1)
    for build in (plain, residual, separable, keywords, attentive):
        samples = [digit_pictures(digits, n, seed) for seed, n in enumerate((_TRAINED, _CALIBRATED, _EVALUATED))]
        make(build, out, wanted, samples, loss="sparse_categorical_crossentropy", epochs=4)
    samples = [table(n, seed) for seed, n in enumerate((_TRAINED, _CALIBRATED, _EVALUATED))]
    make(values, out, wanted, samples, loss="mse", epochs=12)
    normal, calibration = waves(_TRAINED, 0)[0], waves(_CALIBRATED, 1)
    samples = [(normal, normal), calibration, waves(_EVALUATED, 2, broken=0.5)]
    make(anomalies, out, wanted, samples, loss="mse", epochs=10)


def make(build: Callable[[], Any], out: Path, wanted: list[str], samples: Any, *, loss: str, epochs: int) -> None:
    name = build.__name__
    if wanted and name not in wanted:
        return
    (x, y), (calibration, _), (evaluation, labels) = samples
    model = build()
    model.compile(optimizer=keras.optimizers.Adam(2e-3), loss=loss)
    model.fit(x, y, batch_size=64, epochs=epochs, verbose=0)
    (out / f"{name}_float.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(model).convert())
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample[np.newaxis]] for sample in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    (out / f"{name}_tensorflow.tflite").write_bytes(converter.convert())
    np.savez(out / f"{name}.npz", calibration=calibration, evaluation=evaluation, labels=labels)


if __name__ == "__main__":
    main()
