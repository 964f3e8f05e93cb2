# SPDX-License-Identifier: Apache-2.0
"""TensorFlow's functions as layers, so that a Keras model can be made of them; needs TensorFlow."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


class Operations:
    """TensorFlow's functions on Keras tensors: ``op.NAME`` is that of tf, tf.nn or tf.math."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        function = next(getattr(place, name) for place in (tf, tf.nn, tf.math) if hasattr(place, name))

        def call(*given: Any, **options: Any) -> Any:
            flat = tf.nest.flatten(given)
            places = [place for place, value in enumerate(flat) if isinstance(value, tf.keras.KerasTensor)]

            def run(tensors: list[Any]) -> Any:
                values = list(flat)
                for place, value in zip(places, tensors, strict=True):
                    values[place] = value
                return function(*tf.nest.pack_sequence_as(given, values), **options)

            return tf.keras.layers.Lambda(run)([flat[place] for place in places])

        return call
