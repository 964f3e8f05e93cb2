# SPDX-License-Identifier: Apache-2.0
"""The baseline of vww_conversion: TensorFlow's own converter, Keras to int8. Imports nothing else of this repository.

python tensorflow_baseline.py MODEL.h5 CALIBRATION_FOLDER OUT.tflite
"""

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras
from PIL import Image


def pictures(folder: Path) -> Iterator[list[np.ndarray]]:
    with (folder / "labels.csv").open(newline="") as stream:
        names = [row[0] for row in csv.reader(stream)][1:]
    for name in names:
        rgb = np.asarray(Image.open(folder / name).convert("RGB"), dtype=np.float32)
        yield [rgb[np.newaxis, :, :, ::-1] / np.float32(255.0)]


def main() -> None:
    model, folder, out = map(Path, sys.argv[1:4])
    converter = tf.lite.TFLiteConverter.from_keras_model(tf_keras.models.load_model(model, compile=False))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: pictures(folder)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    out.write_bytes(converter.convert())


if __name__ == "__main__":
    main()
