# SPDX-License-Identifier: Apache-2.0
"""Generated models on emulated boards: the oracle's bytes, counts for each sample and layer, and refusals."""

import os
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

from converter.c.core.program import Target
from converter.c.generate import Generated, generate
from edgefleet.boards.inference import build_inference, cut_layers, run_inference
from edgefleet.boards.stack import stack_bound
from edgefleet.boards.toolchains import Kind, find_toolchain
from edgefleet.contracts.errors import BoardError, BudgetError, InputError
from edgefleet.contracts.profile import Profile, kernel_set
from firmware_profiles.loader import load_profile

ROOT = Path(__file__).resolve().parents[2]
M4 = load_profile("mps2-an386")
SAMPLES = 2


@dataclass(frozen=True)
class Answered:
    """A model, samples, and what the tflite-micro wheel answers."""

    model: bytes
    inputs: bytes
    outputs: bytes
    generated: dict[str, Generated] = field(default_factory=dict)

    def on(self, profile: Profile) -> Generated:
        """Return the model as C for a board."""
        kernels = kernel_set(profile)
        if kernels not in self.generated:
            self.generated[kernels] = generate(self.model, name="kws", target=Target("tflm/1", kernels))
        return self.generated[kernels]


@pytest.fixture(scope="module")
def keywords() -> Answered:
    """The keyword-spotting model and two samples."""
    runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime")
    path = Path(os.environ.get("EDGEFLEET_SHARED", ROOT.parent / "shared")) / "models/kws_int8.tflite"
    if not path.is_file():
        pytest.skip(f"{path} is missing: set EDGEFLEET_SHARED")
    interpreter = runtime.Interpreter.from_bytes(path.read_bytes())
    shape = (SAMPLES, *interpreter.get_input_details(0)["shape"])
    samples = np.random.default_rng(7).integers(-128, 128, shape).astype(np.int8)
    outputs = []
    for sample in samples:
        interpreter.set_input(sample, 0)
        interpreter.invoke()
        outputs.append(interpreter.get_output(0).tobytes())
    return Answered(path.read_bytes(), samples.tobytes(), b"".join(outputs))


@pytest.mark.usefixtures("emulators")
@pytest.mark.parametrize("updatable", [False, True], ids=["static", "updatable"])
def test_a_board_answers_as_the_oracle_does(
    updatable: bool, board_profile: Profile, compiler: Kind, keywords: Answered, tmp_path: Path
) -> None:
    toolchain = find_toolchain(board_profile.cpu, prefer=compiler)
    generated = keywords.on(board_profile)
    image = build_inference(generated, profile=board_profile, toolchain=toolchain, folder=tmp_path, updatable=updatable)
    done = run_inference(image, keywords.inputs, SAMPLES, folder=tmp_path / "run")
    assert done.outputs == keywords.outputs
    assert len(done.counts) == SAMPLES
    assert [len(layers) for layers in done.layer_counts] == [len(generated.layers)] * SAMPLES
    assert sum(layer.instructions for layer in done.layer_counts[0]) <= done.counts[0].instructions
    assert 0 <= stack_bound(image.image, toolchain).bytes - done.stack_bytes <= 64
    assert image.besides_bytes <= (16_384 if compiler == "zig" else 10_240)


@pytest.mark.usefixtures("emulators")
def test_counts_are_identical_in_three_runs(keywords: Answered, tmp_path: Path) -> None:
    image = build_inference(keywords.on(M4), profile=M4, toolchain=find_toolchain(M4.cpu), folder=tmp_path)
    first, second, third = (
        run_inference(image, keywords.inputs, SAMPLES, folder=tmp_path / str(number)) for number in range(3)
    )
    assert first == second == third


@pytest.mark.usefixtures("emulators")
def test_each_layers_output_is_kept(keywords: Answered, tmp_path: Path) -> None:
    generated = keywords.on(M4)
    image = build_inference(generated, profile=M4, toolchain=find_toolchain(M4.cpu), folder=tmp_path, keep_layers=True)
    done = run_inference(image, keywords.inputs, SAMPLES, folder=tmp_path / "run")
    sizes = [layer.output_bytes for layer in generated.layers]
    assert [[len(layer) for layer in sample] for sample in done.layers] == [sizes] * SAMPLES
    assert b"".join(sample[-1] for sample in done.layers) == keywords.outputs == done.outputs


@pytest.mark.usefixtures("emulators")
def test_a_damaged_blob_is_refused_by_the_board(keywords: Answered, tmp_path: Path) -> None:
    generated = keywords.on(M4)
    sources = {name: text.replace("0x31424645u", "0x31424646u") for name, text in generated.sources.items()}
    assert sources != generated.sources
    image = build_inference(
        replace(generated, sources=sources),
        profile=M4,
        toolchain=find_toolchain(M4.cpu),
        folder=tmp_path,
        updatable=True,
    )
    with pytest.raises(BoardError) as caught:
        run_inference(image, keywords.inputs, SAMPLES, folder=tmp_path / "run")
    assert caught.value.message == "the board 'mps2-an386' refused the model: bad blob: not a model blob"


@pytest.mark.usefixtures("emulators")
def test_a_board_that_ends_well_and_wrote_nothing_is_one_sentence(
    keywords: Answered, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulator = tmp_path / "qemu-system-arm"
    emulator.write_text("#!/bin/sh\necho QEMU emulator version 8.2.0\n")
    emulator.chmod(0o755)
    monkeypatch.setenv("EDGEFLEET_QEMU_DIR", str(tmp_path))
    image = build_inference(keywords.on(M4), profile=M4, toolchain=find_toolchain(M4.cpu), folder=tmp_path / "build")
    with pytest.raises(BoardError) as caught:
        run_inference(image, keywords.inputs, SAMPLES, folder=tmp_path / "run", counting=False)
    assert caught.value.message == "the board 'mps2-an386' answered 2 samples with 0 bytes of outputs and 0 of layers"


def test_half_a_sample_is_refused(keywords: Answered, tmp_path: Path) -> None:
    image = build_inference(keywords.on(M4), profile=M4, toolchain=find_toolchain(M4.cpu), folder=tmp_path)
    with pytest.raises(InputError):
        run_inference(image, keywords.inputs[:-1], SAMPLES, folder=tmp_path / "odd")
    with pytest.raises(BoardError, match=r"^the board 'mps2-an386' answered 1 samples with 0 bytes of outputs"):
        run_inference(image, keywords.inputs[:100], 1, folder=tmp_path / "short")


def test_a_model_that_does_not_fit_is_one_sentence(keywords: Answered, tmp_path: Path) -> None:
    small = load_profile("nucleo-f103rb")
    generated = replace(keywords.on(load_profile("mps2-an385")), arena_bytes=30_000)
    with pytest.raises(BudgetError, match=r"^the image does not fit nucleo-f103rb: it needs 32,\d{3} bytes of 'data'"):
        build_inference(generated, profile=small, toolchain=find_toolchain(small.cpu), folder=tmp_path)


def test_layers_are_cut_as_they_were_written() -> None:
    assert cut_layers(b"aabcccaabccc", (2, 1, 3), 2) == ((b"aa", b"b", b"ccc"), (b"aa", b"b", b"ccc"))
