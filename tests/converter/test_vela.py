# SPDX-License-Identifier: Apache-2.0
"""Compiling for an NPU: vela's crash, hang or silence is one sentence, and the NPU's share of the work is counted."""

import os
import sys
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import msgspec
import numpy as np
import pytest

from converter.adapters import vela
from converter.adapters.flatbuffers.offline_plan import NPU_OPERATOR, embed_plan, plan_for, read_plan
from converter.adapters.flatbuffers.reading import read_facts, with_modern_operator_codes, with_signature_list
from converter.adapters.vela import PROGRAM_VARIABLE, compile_npu
from converter.core.board.cost import predict
from edgefleet.contracts.errors import (
    EdgeFleetError,
    ExitStatus,
    MissingExtraError,
    MissingProgramError,
    ModelFailedError,
    ProfileError,
    UnsupportedModelError,
)
from edgefleet.contracts.profile import AcceleratorFacts
from firmware_profiles import load_profile

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "examples" / "digits" / "v1_float32.tflite"
U55 = AcceleratorFacts(id="ethos-u55-128")

needs_vela = pytest.mark.skipif(
    find_spec("ethosu") is None and PROGRAM_VARIABLE not in os.environ,
    reason=f"no vela: pip install ethos-u-vela (the extra 'mcu'), or name the program in {PROGRAM_VARIABLE}",
)


@cache
def digits(*, weights_bits: int = 8, float_end: bool = False) -> bytes:
    """Return digits with 8-bit activations in ranges that suffice to compile it."""
    from ai_edge_quantizer import qtyping, quantizer, recipe_manager

    model = with_signature_list(with_modern_operator_codes(DIGITS.read_bytes()))
    recipe = recipe_manager.RecipeManager()
    recipe.add_static_config(".*", qtyping.TFLOperationName.ALL_SUPPORTED, 8, 8)
    recipe.add_static_config(".*", qtyping.TFLOperationName.CONV_2D, 8, weights_bits)
    if float_end:
        for operator in (qtyping.TFLOperationName.FULLY_CONNECTED, qtyping.TFLOperationName.SOFTMAX):
            recipe.add_quantization_config(".*", operator, None, recipe_manager.AlgorithmName.NO_QUANTIZE)
    ranges = {
        tensor.name: {end: np.full((1,) * len(tensor.shape), value) for end, value in (("min", -8.0), ("max", 8.0))}
        for tensor in read_facts(model).tensors
        if not tensor.constant_bytes
    }
    made = quantizer.Quantizer(model, recipe.get_quantization_recipe()).quantize(
        ranges, enable_progress_bar=False, enable_progress_report=False
    )
    return bytes(made.quantized_model)


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "StandIn":
    """Put a program of a few lines in vela's place."""
    return StandIn(tmp_path / "vela", monkeypatch)


class StandIn:
    def __init__(self, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.path = path
        monkeypatch.setenv(PROGRAM_VARIABLE, str(path))

    def does(self, lines: str) -> None:
        head = f"#!{sys.executable}\nimport os, pathlib, signal, sys\nout = pathlib.Path(sys.argv[1]).parent\n"
        self.path.write_text(head + lines)
        self.path.chmod(0o755)


def refusal(model: bytes, accelerator: AcceleratorFacts = U55, **options: float) -> EdgeFleetError:
    with pytest.raises(EdgeFleetError) as caught:
        compile_npu(model, accelerator, **options)
    return caught.value


@needs_vela
def test_an_int8_model_runs_wholly_on_the_npu() -> None:
    compiled = compile_npu(digits(), U55)
    assert compiled.npu_share == 1.0
    assert [operator.name for operator in read_facts(compiled.model).operators] == [NPU_OPERATOR]
    report = compiled.report
    assert report.left_on_cpu == ()
    assert None not in (report.cycles, report.inference_us, report.sram_bytes, report.flash_bytes)


@needs_vela
def test_the_same_model_compiles_to_the_same_bytes() -> None:
    assert compile_npu(digits(), U55) == compile_npu(digits(), U55)


@needs_vela
def test_the_shipped_board_with_an_npu_compiles_visual_wake_words(shared_dir: Path) -> None:
    accelerator = load_profile("corstone-300-u55").accelerator
    assert accelerator is not None
    compiled = compile_npu((shared_dir / "models" / "vww_int8.tflite").read_bytes(), accelerator)
    assert compiled.npu_share == 1.0
    assert compiled.report.cycles == 220_870


@needs_vela
def test_the_plan_that_vela_embeds_is_taken_as_it_is(shared_dir: Path) -> None:
    board = load_profile("corstone-300-u55")
    assert board.accelerator is not None
    compiled = compile_npu((shared_dir / "models" / "vww_int8.tflite").read_bytes(), board.accelerator)
    own, best = plan_for(compiled.model)
    assert own == best
    assert own.size_bytes == own.bound_bytes == compiled.report.sram_bytes + 2 * 48  # the NPU's list of addresses
    assert {b.tensor: at for b, at in zip(own.buffers, own.offsets, strict=True)}.items() >= read_plan(
        compiled.model
    ).items()
    cost = predict(read_facts(compiled.model), own, board, npu_latency_us=compiled.report.inference_us)
    assert cost.latency_us == compiled.report.inference_us
    assert cost.method.endswith("latency: the compiler's estimate for ethos-u55-128, not measured")
    with pytest.raises(ModelFailedError):
        embed_plan(compiled.model, own)


@needs_vela
def test_a_plan_from_before_is_not_left_in_what_vela_writes() -> None:
    model = digits()
    planned = embed_plan(model, plan_for(model)[1])
    assert read_plan(compile_npu(planned, U55).model) == read_plan(compile_npu(model, U55).model)


@needs_vela
def test_operators_that_stay_on_the_processor_lower_the_share() -> None:
    model = digits(float_end=True)
    compiled = compile_npu(model, U55)
    left = [operator.name for operator in read_facts(compiled.model).operators if operator.name != NPU_OPERATOR]
    assert compiled.npu_share == 1 - len(left) / len(read_facts(model).operators)
    assert {"FULLY_CONNECTED", "SOFTMAX"} <= set(compiled.report.left_on_cpu)


@needs_vela
def test_a_share_below_the_profiles_minimum_is_refused() -> None:
    error = refusal(digits(float_end=True), msgspec.structs.replace(U55, minimum_npu_share=0.9))
    assert (type(error), error.exit_status) == (UnsupportedModelError, ExitStatus.REFUSED)
    assert error.message.startswith("the NPU 'ethos-u55-128' would run ")
    assert "expected 90% or more (accelerator.minimum_npu_share); left for the processor: " in error.message


@needs_vela
def test_a_crash_of_vela_is_one_sentence() -> None:
    error = refusal(digits(weights_bits=4))
    assert (type(error), error.exit_status) == (UnsupportedModelError, ExitStatus.REFUSED)
    assert error.message == (
        "vela crashed (SIGFPE) on the model, which has 4-bit weights, while compiling it for 'ethos-u55-128'"
    )
    assert error.hint == "quantize all weights to int8 with a recipe"


@needs_vela
@pytest.mark.parametrize(
    ("accelerator", "said"),
    [
        (AcceleratorFacts(id="ethos-u55-999"), "argument --accelerator-config: invalid choice: 'ethos-u55-999'"),
        (
            AcceleratorFacts(id="ethos-u55-128", system_config="Nonsense", memory_mode="Shared_Sram"),
            "Section System_Config.Nonsense not found in Vela config file",
        ),
    ],
)
def test_what_vela_does_not_know_is_the_profiles_fault(accelerator: AcceleratorFacts, said: str) -> None:
    error = refusal(digits(), accelerator)
    assert type(error) is ProfileError
    assert error.message.startswith(f"vela does not take the profile's accelerator '{accelerator.id}': ")
    assert said in error.message


def test_a_float_model_is_refused_before_vela_takes_it_in_silence(stand_in: StandIn) -> None:
    stand_in.does("sys.exit('started')")
    error = refusal(DIGITS.read_bytes())
    assert type(error) is UnsupportedModelError
    assert error.message == "the model computes in float32; the NPU 'ethos-u55-128' computes in int8 and int16"


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            "os.kill(os.getpid(), signal.SIGSEGV)",
            "vela crashed (SIGSEGV) on the model, while compiling it for 'ethos-u55-128'",
        ),
        ("raise RuntimeError('no networks')", "vela cannot compile the model for 'ethos-u55-128': no networks"),
        ("sys.exit(1)", "vela cannot compile the model for 'ethos-u55-128': it does not say why"),
        ("", "vela ended without a model for 'ethos-u55-128'"),
        (
            "(out / 'model_vela.tflite').write_bytes((out / 'model.tflite').read_bytes())",
            "the NPU 'ethos-u55-128' would run 0% of the model's operators, "
            "expected 50% or more (accelerator.minimum_npu_share); "
            "left for the processor: CONV_2D, FULLY_CONNECTED, MAX_POOL_2D, RESHAPE, SOFTMAX",
        ),
        (
            "(out / 'model_vela.tflite').write_bytes(b'garbage')",
            "vela wrote a file for 'ethos-u55-128' that is no model: "
            "the model is damaged: its 7 bytes are no whole flatbuffer",
        ),
    ],
    ids=["crash", "traceback", "silence", "nothing written", "nothing on the NPU", "garbage written"],
)  # fmt: skip
def test_whatever_vela_does_is_one_sentence(stand_in: StandIn, lines: str, message: str) -> None:
    stand_in.does(lines)
    error = refusal(digits())
    assert (type(error), error.exit_status, error.message) == (UnsupportedModelError, ExitStatus.REFUSED, message)


def test_nothing_on_the_npu_is_refused_even_where_the_profile_asks_for_nothing(stand_in: StandIn) -> None:
    stand_in.does("(out / 'model_vela.tflite').write_bytes((out / 'model.tflite').read_bytes())")
    assert "would run 0% of" in refusal(digits(), msgspec.structs.replace(U55, minimum_npu_share=0.0)).message


def test_a_hang_of_vela_ends_at_the_deadline(stand_in: StandIn) -> None:
    stand_in.does("signal.pause()")
    error = refusal(digits(), deadline_s=0.5)
    assert type(error) is UnsupportedModelError
    assert error.message == "vela did not compile the model for 'ethos-u55-128' within 0.5 s"


def test_a_program_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(PROGRAM_VARIABLE, "/nowhere/vela")
    error = refusal(digits())
    assert (type(error), error.exit_status) == (MissingProgramError, ExitStatus.FAILED)
    assert error.message == "vela cannot be started as '/nowhere/vela': No such file or directory"


def test_without_vela_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PROGRAM_VARIABLE, raising=False)
    monkeypatch.setattr(vela.importlib.util, "find_spec", lambda name: None)
    error = refusal(digits())
    assert (type(error), error.exit_status) == (MissingExtraError, ExitStatus.FAILED)
    assert error.message == (
        "compiling a model for the NPU 'ethos-u55-128' needs the extra 'mcu', which is not installed"
    )


@pytest.mark.parametrize("figure", ["nan", "inf", "-1", "many", ""])
def test_a_figure_of_vela_that_is_none_is_none(figure: str) -> None:
    assert vela._figure({"cycles_total": figure}, "cycles_total", 1) is None
