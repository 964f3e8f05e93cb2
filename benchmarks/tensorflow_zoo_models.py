# SPDX-License-Identifier: Apache-2.0
"""Small models as people deploy them, one function each; needs TensorFlow and nothing else of this repository.

Weights are random, as answers are compared and not scored.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from benchmarks.keras_operations import Operations

layers = tf.keras.layers
Input = tf.keras.Input
Model = tf.keras.Model


op = Operations()
_IMAGE = (24, 24, 3)


def _conv(x: Any, filters: int, size: int = 3, stride: int = 1, act: Any = "relu6", padding: str = "same") -> Any:
    x = layers.Conv2D(filters, size, stride, padding, use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    return x if act is None else layers.Activation(act)(x)


def _depthwise(x: Any, stride: int = 1, act: Any = "relu6", multiplier: int = 1, size: int = 3) -> Any:
    x = layers.DepthwiseConv2D(size, stride, "same", depth_multiplier=multiplier, use_bias=False)(x)
    x = layers.BatchNormalization()(x)
    return x if act is None else layers.Activation(act)(x)


def _head(x: Any, classes: int = 6, act: str | None = "softmax") -> Any:
    return layers.Dense(classes, activation=act)(layers.GlobalAveragePooling2D()(x))


def _hard_sigmoid(x: Any) -> Any:
    return layers.ReLU(6.0)(x + 3.0) * (1.0 / 6.0)


def _hard_swish(x: Any) -> Any:
    return x * _hard_sigmoid(x)


def _squeeze(x: Any, gate: Callable[[Any], Any], act: Any = "relu") -> Any:
    channels = x.shape[-1]
    s = layers.GlobalAveragePooling2D(keepdims=True)(x)
    s = layers.Conv2D(max(channels // 4, 4), 1, activation=act)(s)
    return layers.Multiply()([x, gate(layers.Conv2D(channels, 1)(s))])


def mobilenet_v1() -> Model:
    i = Input(_IMAGE)
    x = _conv(i, 8, stride=2)
    for filters, stride in ((16, 1), (24, 2), (24, 1)):
        x = _conv(_depthwise(x, stride), filters, 1)
    return Model(i, _head(x))


def mobilenet_v2() -> Model:
    i = Input(_IMAGE)
    x = _conv(i, 8, stride=2)
    for filters, stride in ((8, 1), (16, 2), (16, 1)):
        y = _conv(_depthwise(_conv(x, x.shape[-1] * 4, 1), stride), filters, 1, act=None)
        x = layers.Add()([x, y]) if y.shape == x.shape else y
    return Model(i, _head(_conv(x, 32, 1)))


def mobilenet_v3() -> Model:
    i = Input(_IMAGE)
    x = _conv(i, 8, stride=2, act=_hard_swish)
    for filters, act in ((8, "relu"), (8, _hard_swish)):
        y = _squeeze(_depthwise(_conv(x, 24, 1, act=act), act=act, size=5), _hard_sigmoid)
        y = _conv(y, filters, 1, act=None)
        x = layers.Add()([x, y])
    x = layers.GlobalAveragePooling2D(keepdims=True)(_conv(x, 32, 1, act=_hard_swish))
    x = layers.Conv2D(6, 1)(_hard_swish(layers.Conv2D(32, 1)(x)))
    return Model(i, layers.Softmax()(layers.Flatten()(x)))


def efficientnet() -> Model:
    i = Input(_IMAGE)
    x = _conv(i, 8, stride=2, act="swish")
    for _ in range(2):
        y = _squeeze(_depthwise(_conv(x, 24, 1, act="swish"), act="swish"), tf.keras.activations.sigmoid, "swish")
        x = layers.Add()([x, _conv(y, 8, 1, act=None)])
    return Model(i, _head(_conv(x, 24, 1, act="swish")))


def depthwise_multiplier() -> Model:
    i = Input((15, 15, 3))
    x = layers.DepthwiseConv2D(3, 2, "valid", depth_multiplier=4, activation="relu")(i)
    return Model(i, _head(layers.SeparableConv2D(8, 3, depth_multiplier=2, activation="relu")(x)))


def dilated() -> Model:
    i = Input((20, 20, 2))
    x = layers.Conv2D(8, 3, padding="same", dilation_rate=2, activation="relu")(i)
    x = layers.DepthwiseConv2D(3, padding="valid", dilation_rate=2, activation="relu")(x)
    return Model(i, _head(layers.Conv2D(8, 3, padding="valid", dilation_rate=3)(x)))


def transpose_conv() -> Model:
    i = Input((7, 7, 4))
    x = layers.Conv2DTranspose(8, 3, 2, "same", activation="relu")(i)
    x = layers.Conv2DTranspose(4, 2, 2, "valid", use_bias=False)(x)
    return Model(i, layers.Conv2D(2, 1, activation="sigmoid")(x))


def grouped_conv() -> Model:
    i = Input((12, 12, 8))
    return Model(i, _head(layers.Conv2D(16, 3, groups=4, activation="relu")(i)))


def conv_1d() -> Model:
    i = Input((64, 3))
    x = layers.Conv1D(8, 5, 2, activation="relu")(i)
    x = layers.MaxPooling1D(2)(layers.Conv1D(16, 3, padding="causal", dilation_rate=2, activation="relu")(x))
    x = layers.SeparableConv1D(16, 3, activation="relu")(x)
    return Model(i, layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling1D()(x)))


def keywords() -> Model:
    i = Input((49, 10, 1))
    x = layers.Conv2D(16, (10, 4), (2, 2), "same", activation="relu")(i)
    for _ in range(3):
        x = _conv(_depthwise(x, act="relu"), 16, 1, act="relu")
    x = layers.AveragePooling2D((25, 5))(layers.Dropout(0.2)(x))
    return Model(i, layers.Dense(12, activation="softmax")(layers.Flatten()(x)))


def residual_scales() -> Model:
    i = Input((12, 12, 3))
    a = layers.Conv2D(8, 3, padding="same", activation="relu")(i)
    b = layers.Conv2D(8, 3, padding="same")(a) * 40.0
    c = layers.Subtract()([layers.Add()([a, b]), layers.Conv2D(8, 1)(i) * 0.05])
    return Model(i, _head(c))


def concat_scales() -> Model:
    i = Input((12, 12, 3))
    a = layers.Conv2D(4, 3, padding="same", activation="sigmoid")(i)
    b = layers.Conv2D(4, 3, padding="same")(i) * 30.0
    x = layers.Concatenate()([a, b, layers.MaxPooling2D(3, 1, "same")(i)])
    return Model(i, _head(layers.Conv2D(8, 1, activation="relu")(x)))


def split_and_slice() -> Model:
    i = Input((12, 12, 4))
    a, b = op.split(layers.Conv2D(8, 3, padding="same")(i), 2, axis=-1)
    c, d = op.split(a, [1, 3], axis=-1)
    x = layers.Concatenate()([op.relu(a), b * 2.0, c, d])
    return Model(i, _head(layers.Conv2D(6, 1)(x[:, 1:-1:2, 2:9, ::3])))


def padding() -> Model:
    i = Input((10, 10, 3))
    x = layers.Conv2D(4, 3, 2)(layers.ZeroPadding2D(((0, 1), (0, 1)))(i))
    x = op.pad(x, [[0, 0], [1, 2], [2, 1], [0, 0]], "REFLECT")
    x = op.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], "SYMMETRIC")
    x = op.pad(x, [[0, 0], [1, 0], [0, 1], [0, 0]], constant_values=0.75)
    return Model(i, _head(layers.Conv2D(6, 3)(x)))


def pools() -> Model:
    i = Input((13, 11, 3))
    x = layers.AveragePooling2D(3, 2, "same")(layers.Conv2D(6, 3, activation="relu")(i))
    x = layers.MaxPooling2D(3, 2, "same")(x)
    return Model(i, _head(layers.AveragePooling2D((2, 3), 1, "same")(layers.Conv2D(8, 1)(x))))


def means() -> Model:
    i = Input((9, 9, 4))
    x = layers.Conv2D(8, 3)(i)
    kept = op.reduce_mean(x, [1, 2], keepdims=True)
    flat = op.reduce_mean(x * kept, [1, 2])
    most, total = op.reduce_max(x, [1, 2]), op.reduce_sum(x, [1])
    least = op.reduce_min(total, [1])
    return Model(i, layers.Dense(4)(layers.Concatenate()([flat, most, least, op.reduce_mean(x, [3, 1])])))


def resize() -> Model:
    i = Input((8, 8, 3))
    x = layers.UpSampling2D(2, interpolation="bilinear")(layers.Conv2D(4, 3, padding="same")(i))
    x = layers.UpSampling2D(2, interpolation="nearest")(x)
    return Model(i, layers.Conv2D(2, 3, padding="same")(x))


def activations() -> Model:
    i = Input((10, 10, 3))
    x = layers.PReLU(shared_axes=[1, 2], alpha_initializer="random_uniform")(layers.Conv2D(6, 3)(i))
    x = layers.LeakyReLU(negative_slope=0.2)(layers.Conv2D(6, 3)(x))
    x = op.maximum(op.minimum(layers.Conv2D(6, 1)(x), 1.0), -1.0)
    x = layers.ReLU(max_value=1.0)(layers.Conv2D(6, 1)(x))
    x = op.tanh(layers.Conv2D(6, 1)(x)) + op.sigmoid(layers.Conv2D(6, 1)(x))
    return Model(i, _head(layers.Conv2D(8, 1, activation="relu")(x)))


def rare_activations() -> Model:
    i = Input((10, 10, 3))
    x = layers.Conv2D(6, 3, activation="elu")(i)
    x = layers.Conv2D(6, 3, activation="gelu")(x)
    return Model(i, _head(layers.Conv2D(6, 1, activation="softplus")(x)))


def softmax_inside() -> Model:
    i = Input((32,))
    x = layers.Dense(16, activation="softmax")(layers.Dense(16, activation="relu")(i))
    return Model(i, op.log_softmax(layers.Dense(5)(x * 8.0)))


def unfused_norm() -> Model:
    i = Input(_IMAGE)
    x = layers.BatchNormalization(gamma_initializer="random_uniform", beta_initializer="random_normal")(i)
    x = layers.MaxPooling2D(2)(layers.Conv2D(8, 3, activation="relu")(x))
    x = layers.BatchNormalization(gamma_initializer="random_normal", moving_mean_initializer="random_normal")(x)
    return Model(i, _head(layers.ReLU()(x)))


def layer_norm() -> Model:
    i = Input((12, 16))
    x = layers.LayerNormalization()(layers.Dense(16)(i))
    return Model(i, layers.Dense(4)(op.l2_normalize(layers.Flatten()(x), axis=-1)))


def embedding() -> Model:
    i = Input((12,), dtype="int32")
    x = layers.Embedding(50, 8, embeddings_initializer="normal")(i)
    x = layers.Conv1D(8, 3, activation="relu")(x)
    return Model(i, layers.Dense(3, activation="softmax")(layers.GlobalMaxPooling1D()(x)))


def shapes() -> Model:
    i = Input((6, 4))
    x = layers.Dense(8)(op.transpose(i, [0, 2, 1]))
    parts = op.unstack(x, axis=1)
    x = op.stack([parts[1], parts[0] * 0.5, parts[3]], axis=1)
    x = op.squeeze(op.expand_dims(op.reshape(x, [-1, 2, 12]), 1), 1)
    return Model(i, layers.Dense(3)(layers.Flatten()(op.gather(x, [1, 0, 1], axis=1))))


def attention() -> Model:
    i = Input((10, 16))
    x = layers.MultiHeadAttention(2, 8)(i, i)
    x = layers.LayerNormalization()(x + i)
    x = x + layers.Dense(16)(layers.Dense(32, activation="relu")(x))
    return Model(i, layers.Dense(4, activation="softmax")(layers.GlobalAveragePooling1D()(x)))


def dense_rank_3() -> Model:
    i = Input((5, 12))
    x = layers.Dense(16, use_bias=False, activation="relu")(i)
    return Model(i, layers.Dense(7, use_bias=False)(x))


def lstm_unrolled() -> Model:
    i = Input((6, 8))
    return Model(i, layers.Dense(3)(layers.LSTM(8, unroll=True)(i)))


def lstm_loop() -> Model:
    i = Input((6, 8))
    return Model(i, layers.Dense(3)(layers.LSTM(8)(i)))


def lstm_fused() -> Any:
    """One operator for the whole sequence: only the older Keras marks its LSTM so that TensorFlow can make it."""
    import tf_keras

    steps = [tf_keras.layers.LSTM(8, return_sequences=True), tf_keras.layers.LSTM(6), tf_keras.layers.Dense(3)]
    return tf_keras.Sequential([tf_keras.layers.Input(batch_shape=(1, 6, 8)), *steps])


def gru_unrolled() -> Model:
    i = Input((6, 8))
    return Model(i, layers.Dense(3)(layers.GRU(8, unroll=True)(i)))


def two_in_three_out() -> Model:
    a, b = Input((8, 8, 3), name="picture"), Input((5,), name="facts")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="relu")(a))
    x = layers.Concatenate()([x, layers.Dense(4, activation="relu")(b)])
    return Model([a, b], [layers.Dense(4, activation="softmax")(x), layers.Dense(2)(x), x])


def state() -> Any:
    class Counter(tf.Module):
        def __init__(self) -> None:
            self.kept = tf.Variable(tf.zeros((1, 4)))
            self.weights = tf.constant(np.random.normal(size=(4, 4)).astype(np.float32))

        @tf.function(input_signature=[tf.TensorSpec((1, 4), tf.float32)])
        def __call__(self, x: Any) -> Any:
            self.kept.assign(self.kept * 0.5 + tf.matmul(x, self.weights))
            return tf.nn.relu(self.kept)

    return Counter()


def side_paths() -> Model:
    i = Input((8, 8, 3))
    x = layers.Conv2D(6, 3, padding="same")(i)
    best = op.cast(op.argmax(x, axis=-1, output_type=tf.int32), tf.float32)
    chosen = op.where(op.greater(x, 0.1), x, x * 0.3)
    x = op.concat([chosen, op.expand_dims(best, -1)], -1)
    return Model(i, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))


def class_number() -> Model:
    i = Input((16,))
    x = layers.Dense(6)(layers.Dense(12, activation="relu")(i))
    return Model(i, [x, op.argmax(x, axis=-1)])


def shared_weights() -> Model:
    a, b = Input((12, 12, 3), name="left"), Input((12, 12, 3), name="right")
    conv, dense = layers.Conv2D(6, 3, activation="relu"), layers.Dense(8)
    x, y = (dense(layers.GlobalAveragePooling2D()(conv(each))) for each in (a, b))
    return Model([a, b], layers.Dense(2)(op.abs(x - y)))


def batch_of_four() -> Model:
    i = Input(batch_shape=(4, 12, 12, 1))
    return Model(i, _head(layers.Conv2D(8, 3, 2, activation="relu")(i)))


def mnist() -> Model:
    i = Input((28, 28, 1))
    x = layers.MaxPooling2D()(layers.Conv2D(8, 3, activation="relu")(i))
    x = layers.MaxPooling2D()(layers.Conv2D(16, 3, activation="relu")(x))
    return Model(i, layers.Dense(10, activation="softmax")(layers.Dense(32, activation="relu")(layers.Flatten()(x))))


def autoencoder() -> Model:
    i = Input((64, 1))
    x = layers.Conv1D(8, 7, 2, "same", activation="relu")(i)
    x = layers.Conv1D(4, 7, 2, "same", activation="relu")(x)
    x = layers.Conv1DTranspose(8, 7, 2, "same", activation="relu")(x)
    return Model(i, layers.Conv1DTranspose(1, 7, 2, "same")(x))


def unet() -> Model:
    i = Input((16, 16, 3))
    a = _conv(i, 8, act="relu")
    b = _conv(layers.MaxPooling2D()(a), 12, act="relu")
    c = _conv(layers.MaxPooling2D()(b), 16, act="relu")
    x = layers.Concatenate()([layers.UpSampling2D(interpolation="bilinear")(c), b])
    x = layers.Concatenate()([layers.Conv2DTranspose(8, 2, 2)(_conv(x, 12, act="relu")), a])
    return Model(i, layers.Conv2D(2, 1, activation="softmax")(x))


def space_and_depth() -> Model:
    i = Input((8, 8, 4))
    x = op.space_to_depth(layers.Conv2D(4, 3, padding="same")(i), 2)
    x = op.depth_to_space(layers.Conv2D(16, 1)(x), 2)
    return Model(i, layers.Conv2D(2, 3)(op.tile(x, [1, 1, 2, 1])))


def arithmetic() -> Model:
    i = Input((16,))
    x = op.abs(layers.Dense(8)(i)) + 0.1
    y = op.sqrt(x) + op.rsqrt(x) + op.exp(-x) + op.log(x)
    z = op.square(y) / (x + 1.0) - op.squared_difference(x, y)
    return Model(i, layers.Dense(3)(op.minimum(op.floor(z) + op.sin(z), op.maximum(x, y))))


def conv_3d() -> Model:
    i = Input((6, 8, 8, 2))
    x = layers.Conv3D(4, 3, activation="relu")(i)
    return Model(i, layers.Dense(3)(layers.Flatten()(x)))


def tiny_detector() -> Model:
    i = Input((24, 24, 3))
    x = _conv(_conv(i, 8, stride=2), 16, stride=2)
    boxes = layers.Reshape((-1, 4))(layers.Conv2D(8, 3, padding="same")(x))
    classes = layers.Reshape((-1, 3))(layers.Conv2D(6, 3, padding="same")(x))
    return Model(i, [op.sigmoid(classes), boxes])


ZOO: dict[str, Callable[[], Any]] = {
    make.__name__: make
    for make in (
        mobilenet_v1, mobilenet_v2, mobilenet_v3, efficientnet, depthwise_multiplier, dilated, transpose_conv,
        grouped_conv, conv_1d, keywords, residual_scales, concat_scales, split_and_slice, padding, pools, means, resize,
        activations, rare_activations, softmax_inside, unfused_norm, layer_norm, embedding, shapes, attention,
        dense_rank_3, lstm_unrolled, lstm_loop, lstm_fused, gru_unrolled, two_in_three_out, state, side_paths,
        class_number, shared_weights, batch_of_four, mnist, autoencoder, unet, space_and_depth, arithmetic, conv_3d,
        tiny_detector,
    )
}  # fmt: skip
