# SPDX-License-Identifier: Apache-2.0
"""Small models of each task whose weights are written by hand, so that they really do it, and samples for them."""

import wave
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from flatbuffers import flexbuffers

Array = np.ndarray[Any, Any]
RELU, NONE = schema.ActivationFunctionType.RELU, schema.ActivationFunctionType.NONE
_TYPES = {"float32": schema.TensorType.FLOAT32, "int32": schema.TensorType.INT32, "int64": schema.TensorType.INT64}
#: A picture has 4 × 4 cells of 4 × 4 pixels; a bright square (class 0) or a dark one (class 1) fills a cell.
CELLS, CELL = 4, 4
SIDE = CELLS * CELL


class Graph:
    """A float TFLite graph, put together operator by operator; tensors go by number."""

    def __init__(self) -> None:
        self.graph, self.model = schema.SubGraphT(), schema.ModelT()
        self.graph.tensors, self.graph.operators, self.graph.inputs = [], [], []
        self.model.version, self.model.subgraphs, self.model.operatorCodes = 3, [self.graph], []
        self.model.buffers = [schema.BufferT()]

    def tensor(self, name: str, shape: Sequence[int], dtype: str = "float32") -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name.encode(), list(shape), _TYPES[dtype], 0
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def input(self, name: str, *shape: int) -> int:
        self.graph.inputs.append(self.tensor(name, shape))
        return int(self.graph.inputs[-1])

    def constant(self, values: Array) -> int:
        whole = values.dtype.kind == "i"
        number = self.tensor(f"constant{len(self.graph.tensors)}", values.shape, "int32" if whole else "float32")
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(values.astype("<i4" if whole else "<f4").tobytes(), dtype=np.uint8)
        self.model.buffers.append(buffer)
        self.graph.tensors[number].buffer = len(self.model.buffers) - 1
        return number

    def operator(self, kind: str, inputs: Sequence[int], outputs: Sequence[int], options: Any = None) -> None:
        code, made = schema.OperatorCodeT(), schema.OperatorT()
        custom = not hasattr(schema.BuiltinOperator, kind)
        number = schema.BuiltinOperator.CUSTOM if custom else getattr(schema.BuiltinOperator, kind)
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), 1
        if custom:
            code.customCode = kind.encode()
            made.customOptions = np.frombuffer(bytes(flexbuffers.Dumps(options)), np.uint8)
        elif options is not None:
            made.builtinOptions = options
            made.builtinOptionsType = getattr(schema.BuiltinOptions, type(options).__name__.removesuffix("T"))
        self.model.operatorCodes.append(code)
        made.opcodeIndex = len(self.model.operatorCodes) - 1
        made.inputs, made.outputs = list(inputs), list(outputs)
        self.graph.operators.append(made)

    def one(
        self, kind: str, inputs: Sequence[int], name: str, shape: Sequence[int], options: Any = None, dtype: str = ""
    ) -> int:
        output = self.tensor(name, shape, dtype or "float32")
        self.operator(kind, inputs, [output], options)
        return output

    def convolve(
        self, source: int, name: str, weights: Array, bias: Array, *, stride: int = 1, activation: int = NONE
    ) -> int:
        """Convolve without padding; ``weights`` are (outputs, height, width, inputs)."""
        options = schema.Conv2DOptionsT()
        options.padding, options.fusedActivationFunction = schema.Padding.VALID, activation
        options.strideH = options.strideW = stride
        options.dilationHFactor = options.dilationWFactor = 1
        _, height, width, _ = self.graph.tensors[source].shape
        sizes = [(n - taps) // stride + 1 for n, taps in zip((height, width), weights.shape[1:3], strict=True)]
        inputs = [source, self.constant(weights), self.constant(bias)]
        return self.one("CONV_2D", inputs, name, [1, *sizes, len(bias)], options)

    def dense(self, source: int, name: str, weights: Array, bias: Array, activation: int = NONE) -> int:
        options = schema.FullyConnectedOptionsT()
        options.fusedActivationFunction = activation
        inputs = [source, self.constant(weights), self.constant(bias)]
        return self.one("FULLY_CONNECTED", inputs, name, [1, len(bias)], options)

    def reshape(self, source: int, name: str, *shape: int) -> int:
        options = schema.ReshapeOptionsT()
        options.newShape = list(shape)
        return self.one("RESHAPE", [source, self.constant(np.asarray(shape))], name, shape, options)

    def finish(self, *outputs: int) -> bytes:
        self.graph.outputs = list(outputs)
        return bytes(flatbuffer_utils.convert_object_to_bytearray(self.model))


def _heads(graph: Graph) -> tuple[int, int]:
    """Return shifts of boxes [1, 16, 4] and scores of both classes [1, 16, 2] of a picture's cells."""
    picture = graph.input("picture", 1, SIDE, SIDE, 1)
    chance = np.random.default_rng(7)
    mean = np.full((1, CELL, CELL, 1), 1.0 / CELL**2)
    filters = np.concatenate([8.0 * mean, -8.0 * mean, chance.normal(0.0, 0.1, (6, CELL, CELL, 1))])
    features = graph.convolve(
        picture, "features", filters, np.array([-4.0, 4.0, *[0.1] * 6]), stride=CELL, activation=RELU
    )
    shift = chance.normal(0.0, 0.02, (4, 1, 1, 8))
    boxes = graph.convolve(features, "shifts", shift, np.zeros(4))
    judge = chance.normal(0.0, 0.05, (2, 1, 1, 8))
    judge[0, 0, 0, 0] = judge[1, 0, 0, 1] = 2.5
    logits = graph.convolve(features, "logits", judge, np.array([-4.0, -4.0]))
    scores = graph.one("LOGISTIC", [logits], "probabilities", [1, CELLS, CELLS, 2])
    cells = CELLS**2
    return graph.reshape(boxes, "flat_shifts", 1, cells, 4), graph.reshape(scores, "flat_scores", 1, cells, 2)


def _anchors() -> Array:
    """Return the cells as rows of y, x (of the centre), height, width, in shares of the picture."""
    middle = (np.arange(CELLS) + 0.5) / CELLS
    size = np.full(CELLS**2, 1.0 / CELLS)
    return np.stack([np.repeat(middle, CELLS), np.tile(middle, CELLS), size, size], axis=1)


def post_processed(scores_with_background: bool = False) -> bytes:
    """Return a detector that ends in TFLite_Detection_PostProcess, with five detections."""
    graph = Graph()
    shifts, scores = _heads(graph)
    sizes = {"": (1, 5, 4), ":1": (1, 5), ":2": (1, 5), ":3": (1,)}
    outputs = [graph.tensor(f"TFLite_Detection_PostProcess{name}", shape) for name, shape in sizes.items()]
    options = {
        "max_detections": 5, "max_classes_per_detection": 1, "detections_per_class": 5, "use_regular_nms": False,
        "nms_score_threshold": 0.3, "nms_iou_threshold": 0.5, "num_classes": 2,
        "y_scale": 10.0, "x_scale": 10.0, "h_scale": 5.0, "w_scale": 5.0,
    }  # fmt: skip
    graph.operator("TFLite_Detection_PostProcess", [shifts, scores, graph.constant(_anchors())], outputs, options)
    return graph.finish(*outputs)


def plain_heads(names: tuple[str, str, str] = ("boxes", "classes", "scores")) -> bytes:
    """Return a detector with an output of boxes, one of classes (float), one of scores: a row for each cell."""
    graph = Graph()
    shifts, scores = _heads(graph)
    y, x, height, width = (_anchors()[:, place] for place in range(4))
    corners = np.stack([y - height / 2, x - width / 2, y + height / 2, x + width / 2], axis=1)[np.newaxis]
    add = schema.AddOptionsT()
    boxes = graph.one("ADD", [shifts, graph.constant(corners)], names[0], [1, CELLS**2, 4], add)
    reduce = schema.ReducerOptionsT()
    best = graph.one("REDUCE_MAX", [scores, graph.constant(np.array([2]))], names[2], [1, CELLS**2], reduce)
    pick = schema.ArgMaxOptionsT()
    pick.outputType = schema.TensorType.INT32
    number = graph.one("ARG_MAX", [scores, graph.constant(np.array(2))], "number", [1, CELLS**2], pick, "int32")
    cast = schema.CastOptionsT()
    cast.inDataType, cast.outDataType = schema.TensorType.INT32, schema.TensorType.FLOAT32
    classes = graph.one("CAST", [number], names[1], [1, CELLS**2], cast)
    return graph.finish(boxes, classes, best)


def raw_heads() -> bytes:
    """Return a detector with an output of boxes, and one of the scores of each class."""
    graph = Graph()
    shifts, scores = _heads(graph)
    y, x, height, width = (_anchors()[:, place] for place in range(4))
    corners = np.stack([y - height / 2, x - width / 2, y + height / 2, x + width / 2], axis=1)[np.newaxis]
    boxes = graph.one("ADD", [shifts, graph.constant(corners)], "a", [1, CELLS**2, 4], schema.AddOptionsT())
    return graph.finish(scores, boxes)


class Scenes(NamedTuple):
    """Pictures, (samples, 16, 16, 1) float32, and labelled boxes, (samples, 3, 5), class -1 where there is none."""

    x: Array
    y: Array


def scenes(count: int, seed: int) -> Scenes:
    """Draw grey pictures with up to three squares."""
    chance = np.random.default_rng(seed)
    x = chance.normal(0.5, 0.02, (count, SIDE, SIDE, 1))
    y = np.zeros((count, 3, 5))
    y[:, :, 4] = -1
    for picture, boxes in zip(x, y, strict=True):
        for box, cell in zip(boxes[: chance.integers(1, 4)], chance.permutation(CELLS**2), strict=False):
            row, column, kind = cell // CELLS, cell % CELLS, int(chance.integers(2))
            strength = chance.uniform(0.2, 0.5)
            place = (slice(row * CELL, (row + 1) * CELL), slice(column * CELL, (column + 1) * CELL))
            picture[place] += strength if kind == 0 else -strength
            box[:] = (row / CELLS, column / CELLS, (row + 1) / CELLS, (column + 1) / CELLS, kind)
    return Scenes(x.astype(np.float32), y)


class Folder(NamedTuple):
    """A folder with a model and samples."""

    path: Path

    def save(self, name: str, **arrays: Array) -> Path:
        np.savez(self.path / name, **arrays)
        return self.path / name

    def write(self, name: str, content: bytes | str) -> Path:
        (self.path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return self.path / name


@pytest.fixture(scope="session")
def detection_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Detectors (ssd.tflite, plain.tflite, unnamed.tflite, raw.tflite) with calibration.npz and labelled.npz."""
    folder = Folder(tmp_path_factory.mktemp("detection"))
    folder.write("ssd.tflite", post_processed())
    folder.write("plain.tflite", plain_heads())
    folder.write("unnamed.tflite", plain_heads(("a", "b", "c")))
    folder.write("raw.tflite", raw_heads())
    folder.save("calibration.npz", x=scenes(60, 1).x)
    labelled = scenes(120, 2)
    np.save(folder.path / "one.npy", labelled.x[:1])
    folder.save("labelled.npz", x=labelled.x, y=labelled.y)
    return folder.path


@pytest.fixture(scope="session")
def plain_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that is quick to try: int8, without rewrites of the float model."""
    text = 'format_version = 2\nprecision = "int8"\nprune = false\nconditioning = ["none"]\n'
    return Folder(tmp_path_factory.mktemp("recipe")).write("plain.toml", text)


@pytest.fixture(scope="session")
def float_recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe that leaves the model as it is."""
    text = 'format_version = 2\nprecision = "float32"\nprune = false\n'
    return Folder(tmp_path_factory.mktemp("recipe")).write("float.toml", text)


def autoencoder() -> bytes:
    """Return a model that keeps the first 4 of 16 directions of its input, and so reconstructs what lies in them."""
    graph = Graph()
    basis = np.linalg.qr(np.random.default_rng(3).normal(size=(16, 16)))[0][:4]
    window = graph.input("window", 1, 16)
    code = graph.dense(window, "code", basis, np.zeros(4))
    return graph.finish(graph.dense(code, "window_again", basis.T, np.zeros(16)))


def windows(count: int, seed: int, *, anomalous: bool) -> Array:
    """Draw inputs of :func:`autoencoder`; anomalies leave its directions."""
    chance = np.random.default_rng(seed)
    basis = np.linalg.qr(np.random.default_rng(3).normal(size=(16, 16)))[0]
    inside = chance.normal(0.0, 1.0, (count, 4)) @ basis[:4]
    strength = chance.uniform(0.4, 1.2, (count, 1)) if anomalous else chance.uniform(0.0, 0.5, (count, 1))
    return (inside + strength * chance.normal(0.0, 1.0, (count, 12)) @ basis[4:]).astype(np.float32)


@pytest.fixture(scope="session")
def anomaly_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An autoencoder (model.tflite) with calibration.npz (normal) and labelled.npz (100 normal, 100 anomalies)."""
    folder = Folder(tmp_path_factory.mktemp("anomaly"))
    folder.write("model.tflite", autoencoder())
    folder.save("calibration.npz", x=windows(60, 1, anomalous=False))
    x = np.concatenate([windows(100, 2, anomalous=False), windows(100, 3, anomalous=True)])
    folder.save("labelled.npz", x=x, y=np.repeat([0, 1], 100))
    return folder.path


def regressor() -> bytes:
    """Return a small network of two inputs, 'column' [1, 5] and 'extra' [1, 2], with answers 'value' and 'spare'."""
    chance, graph = np.random.default_rng(11), Graph()
    column, extra = graph.input("column", 1, 5), graph.input("extra", 1, 2)
    join = schema.ConcatenationOptionsT()
    join.axis = 1
    both = graph.one("CONCATENATION", [column, extra], "both", [1, 7], join)
    hidden = graph.dense(both, "hidden", chance.normal(0, 0.6, (12, 7)), chance.normal(0, 0.3, 12), RELU)
    value = graph.dense(hidden, "value", chance.normal(0, 0.6, (1, 12)), np.zeros(1))
    return graph.finish(value, graph.dense(hidden, "spare", chance.normal(0, 0.6, (3, 12)), np.zeros(3)))


def table_model() -> bytes:
    """Return a regressor of a row of five columns, [1, 5]."""
    chance, graph = np.random.default_rng(12), Graph()
    row = graph.input("row", 1, 5)
    hidden = graph.dense(row, "hidden", chance.normal(0, 0.6, (12, 5)), chance.normal(0, 0.3, 12), RELU)
    return graph.finish(graph.dense(hidden, "value", chance.normal(0, 0.6, (1, 12)), np.zeros(1)))


def answers_of(model: bytes, *inputs: Array) -> list[Array]:
    """Return each output for all samples."""
    from edgefleet.runtimes.litert import LiteRtInterpreter

    interpreter = LiteRtInterpreter(model, kernels="reference")
    each = [interpreter.invoke([value[number][np.newaxis] for value in inputs]) for number in range(len(inputs[0]))]
    return [np.concatenate([outputs[place] for outputs in each]) for place in range(len(interpreter.outputs))]


@pytest.fixture(scope="session")
def regression_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """regressor.tflite with by_name.npz and labelled_by_name.npz; table.tflite with rows.csv and labelled.csv."""
    folder, chance = Folder(tmp_path_factory.mktemp("regression")), np.random.default_rng(5)
    folder.write("regressor.tflite", regressor())
    columns, extra = (chance.normal(size=(160, n)).astype(np.float32) for n in (5, 2))
    value = answers_of(regressor(), columns, extra)[0] + chance.normal(0, 0.05, (160, 1)).astype(np.float32)
    folder.save("by_name.npz", column=columns[:60], extra=extra[:60])
    folder.save("labelled_by_name.npz", column=columns[60:], extra=extra[60:], y=value[60:])
    folder.write("table.tflite", table_model())
    raw = (columns * [1, 10, 100, 2, 5] + [0, 5, 50, 3, -4]).astype(np.float32)
    target = answers_of(table_model(), ((raw - [0, 5, 50, 3, -4]) / [1, 10, 100, 2, 5]).astype(np.float32))[0]
    folder.write("rows.csv", "a,b,c,d,e\n" + "".join(",".join(map(repr, row.tolist())) + "\n" for row in raw[:60]))
    rows = np.column_stack([raw, target + chance.normal(0, 0.05, (160, 1))])[60:]
    folder.write("labelled.csv", "a,b,c,d,e,y\n" + "".join(",".join(map(repr, r.tolist())) + "\n" for r in rows))
    folder.write(
        "columns.toml", "[features]\nmean = [0.0, 5.0, 50.0, 3.0, -4.0]\ndeviation = [1.0, 10.0, 100.0, 2.0, 5.0]\n"
    )
    return folder.path


RATE_HZ, CLIP = 8000, 4000


def sound_model() -> bytes:
    """Return a classifier of log-mel pictures [1, 24, 16, 1]: a low tone (0) or a high one (1)."""
    graph, chance = Graph(), np.random.default_rng(4)
    picture = graph.input("bands", 1, 24, 16, 1)
    filters = chance.normal(0.0, 0.05, (4, 3, 4, 1)) + 0.05
    kept = graph.convolve(picture, "kept", filters, np.full(4, 1.0), stride=2, activation=RELU)
    flat = graph.reshape(kept, "flat", 1, 11 * 7 * 4)
    band = np.tile(np.repeat(np.linspace(-1.0, 1.0, 7), 4), 11) / 40.0
    logits = graph.dense(flat, "logits", np.stack([-band, band]), np.zeros(2))
    options = schema.SoftmaxOptionsT()
    options.beta = 1.0
    return graph.finish(graph.one("SOFTMAX", [logits], "probabilities", [1, 2], options))


def write_clip(path: Path, samples: Array, rate_hz: int = RATE_HZ) -> None:
    with wave.open(str(path), "wb") as stream:
        stream.setparams((1, 2, rate_hz, 0, "NONE", ""))
        stream.writeframes(samples.astype("<i2").tobytes())


def tones(folder: Path, count: int, seed: int) -> None:
    """Write clips of low and high tones in noise, and labels.csv with their names."""
    folder.mkdir()
    chance, lines = np.random.default_rng(seed), ["file,label"]
    for number in range(count):
        kind = number % 2
        pitch_hz = chance.uniform(200, 500) if kind == 0 else chance.uniform(2200, 3200)
        time_s = np.arange(chance.integers(CLIP - 300, CLIP + 300)) / RATE_HZ
        sound = 6000 * np.sin(2 * np.pi * pitch_hz * time_s) + chance.normal(0, 200, len(time_s))
        write_clip(folder / f"{number}.wav", sound)
        lines.append(f"{number}.wav,{('low', 'high')[kind]}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def sound_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """model.tflite, mel.toml, names.txt, and folders of clips: calibration (30) and labelled (60)."""
    folder = Folder(tmp_path_factory.mktemp("sounds"))
    folder.write("model.tflite", sound_model())
    folder.write("names.txt", "low\nhigh\n")
    folder.write("mel.toml", MEL)
    tones(folder.path / "calibration", 30, 1)
    tones(folder.path / "labelled", 60, 2)
    return folder.path


MEL = f"""[audio]
kind = "log-mel"
sample_rate_hz = {RATE_HZ}
clip_samples = {CLIP}
frame_samples = 256
stride_samples = 160
fft_samples = 256
mel_bins = 16
low_hz = 60.0
high_hz = 3800.0
"""
