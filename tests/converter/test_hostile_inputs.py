# SPDX-License-Identifier: Apache-2.0
"""Whatever is handed to the command line: one sentence, status 3 (1 or 2 where nothing was judged), nothing written.

Models are digits with one thing changed, so that each sentence can be compared whole.
"""

import errno
import os
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils
from PIL import Image

from converter.adapters.flatbuffers.reading import read_model

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits"
MODEL = (DIGITS / "v1_float32.tflite").read_bytes()
Command = Callable[..., subprocess.CompletedProcess[str]]
Change = Callable[[Any], None]
DAMAGED = "the file is damaged, or its training or export went wrong: export it again"
LITERT = "convert the model again for this board, or choose a profile whose runtime has the operator"
AGAIN = "export the model again"
GET_AGAIN = "the file is damaged or not made by a converter: get it again from where it was made"


def packed(tree: Any) -> bytes:
    return bytes(flatbuffer_utils.convert_object_to_bytearray(tree))


def graph(tree: Any) -> Any:
    return tree.subgraphs[0]


def weights(tree: Any) -> Any:
    return graph(tree).tensors[int(graph(tree).operators[0].inputs[1])]


def image(tree: Any) -> Any:
    return graph(tree).tensors[int(graph(tree).inputs[0])]


def set_weight(value: float) -> Change:
    def change(tree: Any) -> None:
        buffer = tree.buffers[weights(tree).buffer]
        values = np.frombuffer(bytes(buffer.data), "<f4").copy()
        values[5] = value
        buffer.data = np.frombuffer(values.tobytes(), np.uint8)

    return change


def on_image(**fields: object) -> Change:
    return lambda tree: vars(image(tree)).update(fields)


def on_graph(**fields: object) -> Change:
    return lambda tree: vars(graph(tree)).update(fields)


def on_weights(**fields: object) -> Change:
    return lambda tree: vars(weights(tree)).update(fields)


def on_first_operator(**fields: object) -> Change:
    return lambda tree: vars(graph(tree).operators[0]).update(fields)


def quantized_weights(scale: list[float], points: list[int]) -> Change:
    def change(tree: Any) -> None:
        made = schema.QuantizationParametersT()
        made.scale, made.zeroPoint = scale, points
        weights(tree).type, weights(tree).quantization = schema.TensorType.INT8, made

    return change


def scale_on_image(tree: Any) -> None:
    image(tree).quantization = schema.QuantizationParametersT()
    image(tree).quantization.scale, image(tree).quantization.zeroPoint = [0.1], [3]


def many_notes(tree: Any) -> None:
    note = schema.MetadataT()
    note.name = b"note"
    tree.metadata = [note] * 1000


def long_note(tree: Any) -> None:
    note = schema.MetadataT()
    note.name = b"n" * 100_000
    tree.metadata = [note]


def backwards(tree: Any) -> None:
    graph(tree).operators.reverse()


def in_a_circle(tree: Any) -> None:
    graph(tree).operators[1].inputs[0] = graph(tree).operators[1].outputs[0]


def made_twice(tree: Any) -> None:
    graph(tree).operators.append(graph(tree).operators[-1])


def all_of_type(number: int) -> Change:
    def change(tree: Any) -> None:
        for tensor in graph(tree).tensors:
            if tensor.type == schema.TensorType.FLOAT32:
                tensor.type = number

    return change


CONV = "tflite/kernels/conv.cc"
WRONG_TYPE = (
    f"LiteRT cannot load the model: {CONV}:378 input_type == kTfLiteFloat32 || input_type == kTfLiteUInt8 || "
    "input_type == kTfLiteInt8 || input_type == kTfLiteInt16 was not true.Node number 0 (CONV_2D) failed to prepare."
)
NAME = "sequential_1_1/conv2d_2_1/convolution"
HOSTILE: list[tuple[str, Change, str, str]] = [
    ("NaN weights", set_weight(float("nan")), f"the model's constant '{NAME}' (tensor 6) has NaN in it", DAMAGED),
    ("infinite weights", set_weight(float("inf")),
     f"the model's weights '{NAME}' (tensor 6) have infinity in them", DAMAGED),
    ("operators backwards", backwards,
     "the model's operator 0 (SOFTMAX) reads tensor 12 before it is computed", DAMAGED),
    ("operators in a circle", in_a_circle,
     "LiteRT cannot load the model: Tensor 9 is both input 0 and output 0", LITERT),
    ("an operator twice", made_twice,
     "the model's operator 6 (SOFTMAX) writes tensor 13, which is there already", DAMAGED),
    ("a thousand notes", many_notes, "the model has 1000 metadata entries, over the limit of 256", DAMAGED),
    ("a long note", long_note, "the model has a metadata entry whose name has 100000 bytes", DAMAGED),
    ("no outputs", on_graph(outputs=[]), "the model has no outputs", AGAIN),
    ("no inputs", on_graph(inputs=[]), "the model failed to run: Input tensor 0 lacks data",
     "check the inputs' number, shape and dtype"),
    ("an output out of range", on_graph(outputs=[77]),
     "LiteRT cannot load the model: Invalid tensor index 77 in outputs. The subgraph has 14 tensors", LITERT),
    ("a buffer out of range", on_weights(buffer=900),
     "LiteRT cannot load the model: Tensor 6 specifies out of range buffer 900 (only 10 buffers).", LITERT),
    ("an operator code out of range", on_first_operator(opcodeIndex=99),
     "LiteRT cannot load the model: Missing registration for opcode_index 99", LITERT),
    ("no graph", lambda tree: vars(tree).update(subgraphs=[]),
     "LiteRT cannot load the model: No subgraph in the model.", LITERT),
    ("an empty input", on_image(shape=[1, 0, 8, 1]),
     f"LiteRT cannot load the model: {CONV}:363 input->dims->data[1] > 0 was not true."
     "Node number 0 (CONV_2D) failed to prepare.", LITERT),
    ("2^31 elements", on_image(shape=[1, 2**16, 2**15, 1]),
     f"LiteRT cannot load the model: {CONV} Conv output spatial dimensions overflow."
     "Node number 0 (CONV_2D) failed to prepare.", LITERT),
    ("2^62 elements", on_image(shape=[1, 2**31 - 1, 2**31 - 1, 8]),
     "LiteRT cannot load the model: tflite/util.cc BytesRequired number of elements overflowed.", LITERT),
    ("a dynamic batch", on_image(shape=[-1, 8, 8, 1]),
     "LiteRT cannot load the model: tflite/util.cc BytesRequired number of elements overflowed.", LITERT),
    ("a scale on a float input", scale_on_image,
     "the model's tensor 0 ('frame') is float32, and has a scale like an integer", DAMAGED),
    ("a string input", on_image(type=schema.TensorType.STRING), WRONG_TYPE, LITERT),
    ("a complex input", on_image(type=schema.TensorType.COMPLEX64), WRONG_TYPE, LITERT),
    ("a float64 input", on_image(type=schema.TensorType.FLOAT64), WRONG_TYPE, LITERT),
    ("float64 throughout", all_of_type(schema.TensorType.FLOAT64),
     "LiteRT cannot load the model: tflite/core/subgraph.cc:1965 required_bytes <= bytes was not true."
     "Tensor 1 is invalidly specified in schema.", LITERT),
    ("a scale of zero", quantized_weights([0.0], [0]),
     f"the model's tensor 6 ('{NAME}') has the scale 0, expected a positive number", DAMAGED),
    ("a scale that is no number", quantized_weights([float("nan")], [0]),
     f"the model's tensor 6 ('{NAME}') has the scale nan, expected a positive number", DAMAGED),
    ("a zero point out of range", quantized_weights([0.1], [1000]),
     f"the model's tensor 6 ('{NAME}') has a zero point outside int8", DAMAGED),
    ("five scales for eight channels", quantized_weights([0.1] * 5, [0] * 5),
     "LiteRT cannot load the model: num_scales must be 1 for per-layer quantization, or 8 for per-axis quantization, "
     "but got 5.Tensor 6 has invalid quantization parameters.", LITERT),
]  # fmt: skip


def sentence(message: str, hint: str) -> str:
    return f"error: {message}\nhint: {hint}\n"


def told(done: subprocess.CompletedProcess[str]) -> tuple[int, str]:
    lines = done.stderr.splitlines(keepends=True)
    return done.returncode, "".join(line for line in lines if not line.startswith("INFO: "))


def state(folder: Path) -> dict[str, tuple[int, bytes]]:
    """Return all that lies in a folder: modes, and contents of files."""
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in folder.rglob("*")
    }


@pytest.fixture
def out(tmp_path: Path) -> Iterator[Path]:
    """A folder for results in which an older bundle lies; the test ends with that, and nothing else, in it."""
    folder = tmp_path / "dist"
    folder.mkdir()
    (folder / "digits-1.0.0-linux-x86_64.bundle").write_bytes(b"an older one")
    before = state(folder)
    yield folder
    assert state(folder) == before


def convert(command: Command, out: Path, model: Path, *more: object) -> subprocess.CompletedProcess[str]:
    named = {str(option): option for option in more[::2]}
    defaults = [("--profile", "linux-x86_64"), ("--name", "digits"), ("--version", "1.0.0"), ("--out", out)]
    return command("convert", model, *(part for pair in defaults if pair[0] not in named for part in pair), *more)


@pytest.fixture(scope="module")
def few_samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("few") / "few.npz"
    with np.load(DIGITS / "digits.npz") as stored:
        np.savez(path, x=stored["calibration_x"][:20])
    return path


@pytest.mark.parametrize(
    ("change", "message", "hint"),
    [case[1:] for case in HOSTILE],
    ids=[case[0] for case in HOSTILE],
)
def test_a_hostile_model(
    front_door: Command, out: Path, tmp_path: Path, few_samples: Path, change: Change, message: str, hint: str
) -> None:
    tree = read_model(MODEL)
    change(tree)
    (tmp_path / "m.tflite").write_bytes(packed(tree))
    done = convert(front_door, out, tmp_path / "m.tflite", "--calibration", few_samples)
    assert told(done) == (3, sentence(message, hint))


def with_sample(values: object) -> dict[str, Any]:
    images = np.full((3, 8, 8, 1), 0.5, np.float32)
    images[1, 2, 3, 0] = values
    return {"x": images}


TYPICAL = "give 50 to 500 typical inputs that differ from each other"
NOT_FINITE = "leave it out, or correct what it was made from, or the preprocessing"


@pytest.mark.parametrize(
    ("arrays", "message", "hint"),
    [
        (with_sample(np.nan), "c.npz: sample 1 has NaN or infinity", NOT_FINITE),
        (with_sample(np.inf), "c.npz: sample 1 has NaN or infinity", NOT_FINITE),
        ({"x": np.zeros((0, 8, 8, 1))}, "c.npz has arrays of different or no length: {'x': 0}", None),
        ({"x": np.zeros((4, 8, 8, 1))},
         "the calibration samples of input 'frame' are all 0, so that no scale can be made from them",
         "give typical inputs; check the preprocessing if these are"),
        ({"x": np.array([["a"] * 8] * 3)}, "c.npz: a sample of input 'frame' has shape [8], "
         "the model expects [1, 8, 8, 1]", "check the samples, or name a preprocessing file with --preprocessing"),
        ({"x": np.full((3, 8, 8, 1), "a")}, "c.npz: a sample of input 'frame' has the type <U1, expected numbers",
         "store the samples as floats or integers"),
    ],
)  # fmt: skip
def test_hostile_samples(
    front_door: Command, out: Path, tmp_path: Path, arrays: dict[str, Any], message: str, hint: str | None
) -> None:
    np.savez(tmp_path / "c.npz", **arrays)
    done = convert(front_door, out, DIGITS / "v1_float32.tflite", "--calibration", tmp_path / "c.npz")
    status, said = told(done)
    assert status == 3
    assert said.splitlines()[0] == f"error: {message}"
    assert hint is None or said.splitlines()[1:] == [f"hint: {hint}"]


def test_a_calibration_set_of_one_constant_picture(front_door: Command, out: Path, tmp_path: Path) -> None:
    folder = tmp_path / "grey"
    folder.mkdir()
    Image.new("RGB", (8, 8), (128, 128, 128)).save(folder / "a.png")
    (folder / "labels.csv").write_text("file,label\na.png,0\n")
    (tmp_path / "p.toml").write_text('[image]\nsize = [8, 8]\nchannels = "GRAY"\nscale = 0.0078125\n')
    done = convert(
        front_door, out, DIGITS / "v1_float32.tflite", "--calibration", folder, "--preprocessing", tmp_path / "p.toml"
    )
    status, said = told(done)
    assert status == 3
    assert said.startswith(
        "error: grey holds nothing but the value 1, so that no range can be learned for the tensors "
    )
    assert said.endswith(f"\nhint: {TYPICAL}\n")
    assert said.count("\n") == 2


def test_no_samples_in_a_folder(front_door: Command, out: Path, tmp_path: Path) -> None:
    folder = tmp_path / "none"
    folder.mkdir()
    (folder / "labels.csv").write_text("file,label\n")
    done = convert(front_door, out, DIGITS / "v1_float32.tflite", "--calibration", folder)
    assert told(done) == (
        3, sentence("'none/labels.csv' needs a header and rows of two columns", "write: file,label")
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\x00", "p.toml is not TOML: "),
        ("image = 3", "p.toml: Expected `object | null`, got `int` - at `$.image`"),
        ("[image]\nsize = [0, 8]\n", "p.toml: Expected `int` >= 1 - at `$.image.size[0]`"),
        ("[image]\nsize = [8, 8]\nscale = nan\n", "the preprocessing takes pixel × nan + 0.0"),
        ("[image]\nsize = [8, 8]\nchannels = 'CMYK'\n", "p.toml: Invalid enum value 'CMYK' - at `$.image.channels`"),
        ("[image]\nsize = [99999999, 99999999]\n",
         "the preprocessing makes inputs of shape [1, 99999999, 99999999, 3], "
         "the model's input 'frame' has [1, 8, 8, 1]"),
        ("x = " + "[" * 5000 + "]" * 5000, "p.toml has a number or nesting that is beyond reading"),
    ],
)  # fmt: skip
def test_preprocessing_of_nonsense(
    front_door: Command, out: Path, tmp_path: Path, few_samples: Path, text: str, message: str
) -> None:
    (tmp_path / "p.toml").write_text(text)
    done = convert(
        front_door, out, DIGITS / "v1_float32.tflite",
        "--calibration", few_samples, "--preprocessing", tmp_path / "p.toml",
    )  # fmt: skip
    status, said = told(done)
    assert status == 2
    assert said.startswith(f"error: {message}")
    assert said.count("\n") == 2


@pytest.mark.parametrize(
    ("does", "message", "hint"),
    [
        ("os.kill(os.getpid(), signal.SIGFPE)",
         "vela crashed (SIGFPE) on the model, while compiling it for 'ethos-u55-128'",
         "choose another precision, or no NPU"),
        ("(out / 'model_vela.tflite').write_bytes((out / 'model.tflite').read_bytes())",
         "the NPU 'ethos-u55-128' would run 0% of the model's operators, expected 50% or more "
         "(accelerator.minimum_npu_share); "
         "left for the processor: CONV_2D, FULLY_CONNECTED, MAX_POOL_2D, RESHAPE, SOFTMAX",
         "change the operators that are named, lower accelerator.minimum_npu_share, "
         "or choose a profile without an NPU"),
        ("(out / 'model_vela.tflite').write_bytes(b'TFL3' * 9)",
         "vela wrote a file for 'ethos-u55-128' that is no model: "
         "the model is damaged: its 36 bytes are no whole flatbuffer",
         "install the release of vela that the extra 'mcu' names, or choose a profile without an NPU"),
    ],
)  # fmt: skip
def test_a_compiler_for_the_npu_that_fails(
    front_door: Command, out: Path, tmp_path: Path, few_samples: Path, monkeypatch: pytest.MonkeyPatch,
    does: str, message: str, hint: str,
) -> None:  # fmt: skip
    program = tmp_path / "vela"
    head = f"#!{sys.executable}\nimport os, pathlib, signal, sys\nout = pathlib.Path(sys.argv[1]).parent\n"
    program.write_text(head + does)
    program.chmod(0o755)
    monkeypatch.setenv("EDGEFLEET_VELA", str(program))
    done = convert(
        front_door, out, DIGITS / "v1_float32.tflite", "--calibration", few_samples, "--profile", "corstone-300-u55"
    )
    assert told(done) == (3, sentence(message, hint))


def test_a_type_that_the_npu_does_not_compute(front_door: Command, out: Path) -> None:
    done = convert(
        front_door, out, DIGITS / "v1_float32.tflite",
        "--profile", "corstone-300-u55", "--recipe", DIGITS / "float32.toml",
    )  # fmt: skip
    status, said = told(done)
    assert status == 3
    assert said.startswith("error: the model computes in float32; profile 'corstone-300-u55' runs ")


def float_conversion(command: Command, out: Path) -> subprocess.CompletedProcess[str]:
    return convert(command, out, DIGITS / "v1_float32.tflite", "--recipe", DIGITS / "float32.toml")


def test_a_folder_that_cannot_be_made(front_door: Command) -> None:
    assert told(float_conversion(front_door, Path("/proc/nowhere"))) == (
        1,
        sentence(
            "cannot write '/proc/nowhere/digits-1.0.0-linux-x86_64.evidence.json': No such file or directory",
            "free space, or choose another place for the output",
        ),
    )


def test_a_folder_that_is_read_only(front_door: Command, out: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root writes everywhere")
    mode = out.stat().st_mode
    out.chmod(0o500)
    status, said = told(float_conversion(front_door, out))
    out.chmod(mode)
    assert (status, said.splitlines()[0][-19:]) == (1, ": Permission denied")


def test_a_folder_where_the_bundle_goes(front_door: Command, tmp_path: Path) -> None:
    (tmp_path / "dist" / "digits-1.0.0-linux-x86_64.bundle").mkdir(parents=True)
    before = state(tmp_path / "dist")
    assert told(float_conversion(front_door, tmp_path / "dist")) == (
        1,
        sentence(
            f"cannot write '{tmp_path}/dist/digits-1.0.0-linux-x86_64.bundle': Is a directory",
            "free space, or choose another place for the output",
        ),
    )
    assert state(tmp_path / "dist") == before


@pytest.mark.parametrize("fails_at", [1, 2, 4])
def test_a_disk_that_is_full_half_way(
    front_door: Command, out: Path, monkeypatch: pytest.MonkeyPatch, fails_at: int
) -> None:
    syncs = [0]
    real = os.fsync

    def full(descriptor: int) -> None:
        syncs[0] += stat.S_ISREG(os.fstat(descriptor).st_mode)
        if syncs[0] == fails_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    status, said = told(float_conversion(front_door, out))
    assert status == 1
    assert said.startswith(f"error: cannot write '{out}/digits-1.0.0-linux-x86_64.")
    assert said.endswith(": No space left on device\nhint: free space, or choose another place for the output\n")


@pytest.mark.parametrize(
    ("number", "status", "said"),
    [(signal.SIGINT, 130, "stopped\n"), (signal.SIGTERM, -signal.SIGTERM, ""), (signal.SIGKILL, -signal.SIGKILL, "")],
)
def test_a_conversion_that_is_stopped_half_way(
    out: Path, tmp_path: Path, number: signal.Signals, status: int, said: str
) -> None:
    """It is stopped while its samples come, and takes the process along that does the work."""
    os.mkfifo(tmp_path / "started")
    (tmp_path / "waiting.py").write_text(
        "import os, pathlib, threading\n"
        "def samples():\n"
        "    pathlib.Path('started').write_text(str(os.getpid()))\n"
        "    while True:\n"
        "        threading.Event().wait(0.05)\n"
        "    yield\n"
    )
    command = [
        "env", "--default-signal=INT",  # which a shell that puts the tests into the background lets be ignored
        Path(sys.executable).with_name("edgefleet"), "convert", DIGITS / "v1_float32.tflite",
        "--profile", "linux-x86_64", "--name", "digits", "--version", "1.0.0", "--out", out,
        "--calibration", "waiting:samples",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, cwd=tmp_path, start_new_session=True) as running:
        try:
            watched = os.pidfd_open(int(_told(tmp_path / "started")))
            running.send_signal(number)
            _, printed = running.communicate(timeout=60)
        finally:
            running.kill()
    assert (running.returncode, printed) == (status, said)
    assert ended(watched)


def _told(fifo: Path) -> str:
    """Return what is written into a FIFO, for which a minute is enough."""
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert select.select([reading], [], [], 60.0)[0], "the conversion never asked for its samples"
        return os.read(reading, 64).decode()
    finally:
        os.close(reading)


def ended(watched: int) -> bool:
    """Wait until a process ends, for as long as a minute."""
    try:
        return bool(select.select([watched], [], [], 60.0)[0])
    finally:
        os.close(watched)
