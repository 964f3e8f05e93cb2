# SPDX-License-Identifier: Apache-2.0
"""Samples from tables, clips and generators: read right, hashed by content, or refused in one sentence."""

import itertools
import tempfile
import wave
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from converter.adapters.samples import generators
from converter.adapters.samples.generators import GeneratedSamples
from converter.adapters.samples.sets import SampleSet, canonical_order, model_inputs, open_samples, sample_set_sha256
from converter.adapters.settings import read_preprocessing
from edgefleet.contracts.errors import EdgeFleetError, InputError, SampleError, SettingError
from edgefleet.contracts.manifest import AudioPreprocessing, Preprocessing, TensorSpec


def refusal(path: Path, names: list[str] | None = None) -> str:
    with pytest.raises(EdgeFleetError) as refused:
        open_samples(path, names or ["x"], ("cat", "dog"))
    return refused.value.message


def table(folder: Path, text: str) -> Path:
    path = folder / "t.csv"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "features", "labels"),
    [
        ("a,b\n1,2\n3,4.5\n", [[1.0, 2.0], [3.0, 4.5]], None),
        ("1,2\n3,4\n", [[1.0, 2.0], [3.0, 4.0]], None),
        ("\ufeffLabel,a\r\ndog,1e3\r\n\r\ncat, -2\r\n", [[1000.0], [-2.0]], [1, 0]),
        ("a,y\n1,0\n2,3\n", [[1.0], [2.0]], [0, 3]),
        ("a,y\n1,0.5\n2,3\n", [[1.0], [2.0]], [0.5, 3.0]),
    ],
)
def test_a_table_has_features_and_perhaps_labels(
    tmp_path: Path, text: str, features: list[list[float]], labels: list[float] | None
) -> None:
    samples = open_samples(table(tmp_path, text), ["x"], ("cat", "dog"))
    assert [samples.raw(n)[0].tolist() for n in range(len(samples))] == features
    assert (None if samples.labels is None else samples.labels.tolist()) == labels


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "t.csv holds no samples"),
        ("a,b\n", "t.csv holds no samples"),
        ("a,b\n1,2\n3\n", "t.csv has 1 cells in line 3, expected 2"),
        ("a,b\n1,two\n", "t.csv has 'two' in line 2, column 'b', expected a number"),
        ("a,b\n1,nan\n", "t.csv has 'nan' in line 2, column 'b', expected a number"),
        ("a,b\n1,\n", "t.csv has '' in line 2, column 'b', expected a number"),
        ("a,label\n1,cow\n", "t.csv has 'cow' in line 2, column 'label', expected a number"),
    ],
)
def test_a_table_that_cannot_be_read(tmp_path: Path, text: str, message: str) -> None:
    assert refusal(table(tmp_path, text)) == message


@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3), min_size=1))
def test_a_table_gives_back_the_numbers_that_were_written(rows: list[list[float]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = table(Path(folder), "a,b,c\n" + "\n".join(",".join(map(repr, row)) for row in rows))
        samples = open_samples(path, ["x"])
        assert [samples.raw(n)[0].tolist() for n in range(len(samples))] == rows


def clip(path: Path, samples: np.ndarray, *, rate: int = 8000, channels: int = 1, width: int = 2) -> None:
    with wave.open(str(path), "wb") as stream:
        stream.setparams((channels, width, rate, 0, "NONE", ""))
        stream.writeframes(samples.tobytes())


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder with two clips, a.wav and b.wav, labelled 0 and 1."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for number, name in enumerate(("a.wav", "b.wav")):
        clip(folder / name, np.arange(6, dtype="<i2") * (number + 1) - 3)
    (folder / "labels.csv").write_text("file,label\na.wav,0\nb.wav,1\n")
    return folder


def test_clips_are_16_bit_integers(clips: Path) -> None:
    samples = open_samples(clips, ["x"])
    assert samples.labels is not None
    assert (samples.raw(1)[0].dtype, samples.raw(1)[0].tolist()) == (np.int16, [-3, -1, 1, 3, 5, 7])
    assert samples.labels.tolist() == [0, 1]


def test_the_hash_of_clips_does_not_know_their_names(clips: Path) -> None:
    before = sample_set_sha256(open_samples(clips, ["x"]))
    (clips / "a.wav").rename(clips / "z.wav")
    (clips / "labels.csv").write_text("file,label\nb.wav,1\nz.wav,0\n")
    assert sample_set_sha256(open_samples(clips, ["x"])) == before


def test_a_clip_of_another_rate_is_refused(clips: Path) -> None:
    how = Preprocessing(audio=AudioPreprocessing(kind="waveform", sample_rate_hz=16_000, clip_samples=6))
    spec = TensorSpec(name="x", shape=(1, 6), dtype="float32")
    with pytest.raises(SampleError) as refused:
        next(model_inputs(open_samples(clips, ["x"]), [0], how, [spec]))
    assert refused.value.message == "clips: 'a.wav' has 8000 samples a second, the preprocessing expects 16000"
    assert how.audio is not None
    right = Preprocessing(audio=msgspec.structs.replace(how.audio, sample_rate_hz=8000))
    [made] = next(model_inputs(open_samples(clips, ["x"]), [0], right, [spec]))
    assert made.tolist() == [[-3 / 32768, -2 / 32768, -1 / 32768, 0.0, 1 / 32768, 2 / 32768]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"channels": 2}, "clips: 'a.wav' has 2 channels of 16 bits, expected one of 16"),
        ({"width": 1}, "clips: 'a.wav' has 1 channels of 8 bits, expected one of 16"),
        ({"samples": np.zeros(0, "<i2")}, "clips: 'a.wav' holds no sound"),
        (None, "clips: 'a.wav' is not a readable .wav"),
    ],
)
def test_a_clip_that_cannot_be_read(clips: Path, content: dict[str, object] | None, message: str) -> None:
    if content is None:
        (clips / "a.wav").write_bytes(b"RIFF of nothing")
    else:
        clip(clips / "a.wav", **{"samples": np.zeros(8, "<i2"), **content})  # type: ignore[arg-type]
    with pytest.raises(SampleError) as refused:
        open_samples(clips, ["x"]).raw(0)
    assert refused.value.message == message


def test_a_folder_of_clips_and_pictures(clips: Path) -> None:
    (clips / "c.png").write_bytes(b"\x89PNG")
    (clips / "labels.csv").write_text("file,label\na.wav,0\nc.png,1\n")
    assert refusal(clips) == "'clips/labels.csv' names pictures and clips"


GENERATORS = """
import numpy as np
from pathlib import Path

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)

def plain():
    Path("ran").write_text(str(int(Path("ran").read_text() if Path("ran").exists() else 0) + 1))
    yield from ROWS

def labelled():
    return ((row, n % 2) for n, row in enumerate(ROWS))

def reversed_labelled():
    return ((ROWS[n], n % 2) for n in (3, 2, 1, 0))

def several():
    for n, row in enumerate(ROWS):
        yield {"a": row, "b": row[:1], "y": n}

def nothing():
    yield from ()

def lacking():
    yield {"a": ROWS[0]}

def half():
    yield ROWS[0], 1
    yield ROWS[1]

def words():
    yield "hello"

def broken():
    yield ROWS[0]
    raise RuntimeError("the disk is gone")

number = 3
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with generators, in the folder that the test runs in."""
    name = f"generators_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(GENERATORS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def generated(module: str, function: str, names: list[str] | None = None) -> SampleSet:
    return open_samples(Path(f"{module}:{function}"), names or ["x"])


def test_a_generator_runs_once_and_its_samples_are_there_in_any_order(module: str) -> None:
    samples = generated(module, "plain")
    assert [samples.raw(n)[0].tolist() for n in (3, 0, 3)] == [[9.0, 10.0, 11.0], [0.0, 1.0, 2.0], [9.0, 10.0, 11.0]]
    assert (len(samples), samples.labels, Path("ran").read_text()) == (4, None, "1")


def test_a_generator_is_hashed_as_the_npz_that_holds_the_same(module: str) -> None:
    rows = np.arange(12, dtype=np.float32).reshape(4, 3)
    np.savez("same.npz", x=rows, y=np.arange(4) % 2)
    same = open_samples(Path("same.npz"), ["x"])
    one, other = generated(module, "labelled"), generated(module, "reversed_labelled")
    assert sample_set_sha256(one) == sample_set_sha256(other) == sample_set_sha256(same)
    first = [one.raw(n)[0].tolist() for n in canonical_order(one)]
    assert first == [other.raw(n)[0].tolist() for n in canonical_order(other)]


def test_a_generator_for_several_inputs_yields_them_by_name(module: str) -> None:
    samples = generated(module, "several", ["b", "a"])
    assert samples.labels is not None
    assert [value.tolist() for value in samples.raw(1)] == [[3.0], [3.0, 4.0, 5.0]]
    assert samples.labels.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("function", "kind", "message"),
    [
        ("nothing", SampleError, "yields no samples"),
        ("lacking", SampleError, "yields a sample without 'b', only ['a']"),
        ("half", SampleError, "yields 1 labels for 2 samples"),
        ("words", SampleError, "yields str, expected an array of numbers"),
    ],
)
def test_a_generator_that_yields_no_samples(
    module: str, function: str, kind: type[EdgeFleetError], message: str
) -> None:
    with pytest.raises(kind) as refused:
        generated(module, function, ["a", "b"])
    assert refused.value.message == f"{module}:{function} {message}"


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("broken", "the generator '{0}:broken' failed: RuntimeError: the disk is gone"),
        ("number", "the generator '{0}:number' is no function"),
        ("missing", "the generator '{0}:missing' cannot be loaded: module '{0}' has no attribute 'missing'"),
    ],
)
def test_a_generator_that_cannot_run(module: str, function: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        generated(module, function)
    assert refused.value.message == message.format(module)


def test_a_generator_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generators, "MOST_SAMPLES", 50)
    with pytest.raises(SampleError) as refused:
        GeneratedSamples("m:f", itertools.repeat(np.zeros(2)), ["x"])
    assert refused.value.message == "m:f yields more than 50 samples"


def test_what_is_neither_a_file_nor_a_generator(tmp_path: Path) -> None:
    assert refusal(tmp_path / "m:f") == f"there are no samples at '{tmp_path}/m:f'"


def test_a_preprocessing_file_says_one_thing(tmp_path: Path) -> None:
    path = tmp_path / "how.toml"
    path.write_text('[audio]\nkind = "log-mel"\nsample_rate_hz = 16000\nclip_samples = 16000\n')
    assert read_preprocessing(path).audio is not None
    path.write_text("[features]\nmean = [1.0]\ndeviation = [2.0]\n")
    assert read_preprocessing(path).features is not None
    path.write_text("[features]\nmean = [1.0]\ndeviation = [2.0]\n[image]\nsize = [1, 1]\n")
    with pytest.raises(SettingError) as refused:
        read_preprocessing(path)
    assert refused.value.message == (
        "how.toml: the preprocessing has [image] and [features], and an input is one of them"
    )
