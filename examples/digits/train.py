# SPDX-License-Identifier: Apache-2.0
"""Train the digits models of this folder, from scikit-learn's 8×8 handwritten digits.

    pip install tensorflow-cpu==2.21.0 scikit-learn && python examples/digits/train.py

Writes ``digits.npz`` (the splits), ``acceptance.npz`` (the product's examination) and four float models:

* v1: a small CNN, good.
* v2: as v1, trained without the digits 8 and 9. On the other eight classes, the only ones that the examination
  covers, it is as good as v1; on live data it is not.
* v3: as v1, with a contrast normalisation ``(x - min) / (max - min)`` inside the graph. On digits it is as good as v1;
  on a blank frame it divides zero by zero.
* v5: wider, trained longer on shifted copies; better than v1.

All models take pixels 0…16 as they come, shape 1×8×8×1, and answer with ten probabilities.
"""

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

HERE = Path(__file__).resolve().parent
SEED = 20260101
WHITE = 16.0
#: The classes that v2 never saw, and that the acceptance examples do not cover.
MISSING = (8, 9)
SPLITS = {"train": 900, "calibration": 100, "acceptance": 200, "live": 597}


def split_digits() -> dict[str, np.ndarray]:
    """Return ``{split}_x`` (uint8, N×8×8×1, 0…16) and ``{split}_y`` (uint8) for each split, shuffled once."""
    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    pixels = digits.images.astype(np.uint8)[order][..., np.newaxis]
    labels = digits.target.astype(np.uint8)[order]
    arrays, start = {}, 0
    for name, count in SPLITS.items():
        arrays[f"{name}_x"] = pixels[start : start + count]
        arrays[f"{name}_y"] = labels[start : start + count]
        start += count
    known = ~np.isin(arrays["acceptance_y"], MISSING)
    arrays["acceptance_x"], arrays["acceptance_y"] = arrays["acceptance_x"][known], arrays["acceptance_y"][known]
    return arrays


def write_npz(path: Path, arrays: dict[str, np.ndarray], compression: int) -> None:
    """Write arrays sorted by name, with fixed timestamps: the same arrays give the same bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in sorted(arrays.items()):
            content = io.BytesIO()
            np.save(content, np.ascontiguousarray(array))
            member = zipfile.ZipInfo(f"{name}.npy")
            member.compress_type = compression
            archive.writestr(member, content.getvalue())


def cnn(first: int, second: int) -> keras.Model:
    """Return an untrained CNN of two convolutions with ``first`` and ``second`` channels."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(first, 3, padding="same", activation="relu"),
            keras.layers.Conv2D(second, 3, padding="same", activation="relu"),
            keras.layers.MaxPooling2D(),
            keras.layers.Flatten(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )


def fit(model: keras.Model, x: np.ndarray, y: np.ndarray, epochs: int) -> keras.Model:
    """Train on inputs scaled to 0…1."""
    model.compile(keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy")
    model.fit(x, y, batch_size=32, epochs=epochs, verbose=0)
    return model


def shifted(pixels: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the pictures and their copies moved by one pixel in each of four directions."""
    moves = [(0, 0), (1, 0), (-1, 0), (0, 1), (0, -1)]
    padded = np.pad(pixels, ((0, 0), (1, 1), (1, 1), (0, 0)))
    copies = [padded[:, 1 + dy : 9 + dy, 1 + dx : 9 + dx] for dy, dx in moves]
    return np.concatenate(copies), np.tile(labels, len(moves))


def take_raw_pixels(model: keras.Model) -> keras.Model:
    """Fold the division by 16 into the first kernel, so that the model takes pixels 0…16."""
    kernel, bias = model.layers[0].get_weights()
    model.layers[0].set_weights([kernel / WHITE, bias])
    return model


def contrast_normalised(pixels: tf.Tensor) -> tf.Tensor:
    """Stretch each picture to 0…1; a picture of one value divides by zero."""
    darkest = tf.reduce_min(pixels, axis=[1, 2, 3], keepdims=True)
    brightest = tf.reduce_max(pixels, axis=[1, 2, 3], keepdims=True)
    return (pixels - darkest) / (brightest - darkest)


def save_float_model(path: Path, answer: Callable[[tf.Tensor], tf.Tensor]) -> None:
    """Write ``answer`` as a float32 .tflite with a batch of one."""
    frame = tf.TensorSpec((1, 8, 8, 1), tf.float32, name="frame")
    concrete = tf.function(lambda frame: {"digit": answer(frame)}).get_concrete_function(frame)
    path.write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([concrete]).convert())


def accuracy(path: Path, x: np.ndarray, y: np.ndarray) -> float:
    """Return the share of right answers of a written model."""
    interpreter = tf.lite.Interpreter(str(path))
    interpreter.allocate_tensors()
    entry, answer = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]
    right = 0
    for frame, label in zip(x.astype(np.float32), y, strict=True):
        interpreter.set_tensor(entry, frame[np.newaxis])
        interpreter.invoke()
        right += int(interpreter.get_tensor(answer).argmax() == label)
    return right / len(y)


def main() -> None:
    keras.utils.set_random_seed(SEED)
    tf.config.experimental.enable_op_determinism()
    arrays = split_digits()
    examination = {"x": arrays.pop("acceptance_x"), "y": arrays.pop("acceptance_y")}
    write_npz(HERE / "digits.npz", arrays, zipfile.ZIP_DEFLATED)
    write_npz(HERE / "acceptance.npz", examination, zipfile.ZIP_STORED)

    x, y = arrays["train_x"] / np.float32(WHITE), arrays["train_y"]
    known = ~np.isin(y, MISSING)
    stretched = contrast_normalised(tf.constant(x)).numpy()
    contrast_cnn = fit(cnn(8, 16), stretched, y, epochs=40)
    models = {
        "v1": take_raw_pixels(fit(cnn(8, 16), x, y, epochs=25)),
        "v2": take_raw_pixels(fit(cnn(8, 16), x[known], y[known], epochs=25)),
        "v3": lambda frame: contrast_cnn(contrast_normalised(frame)),
        "v5": take_raw_pixels(fit(cnn(12, 24), *shifted(x, y), epochs=40)),
    }
    for name, model in models.items():
        path = HERE / f"{name}_float32.tflite"
        save_float_model(path, model)
        live, exam = (accuracy(path, a, b) for a, b in [(arrays["live_x"], arrays["live_y"]), examination.values()])
        print(f"{name}: {path.stat().st_size} bytes, live {live:.4f}, acceptance {exam:.4f}")


if __name__ == "__main__":
    main()
