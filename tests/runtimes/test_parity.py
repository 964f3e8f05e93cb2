# SPDX-License-Identifier: Apache-2.0
"""Parity: the same model run right passes, and one step off, NaN or another top-1 class does not."""

from collections.abc import Callable
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgefleet.contracts.bundle import Bundle
from edgefleet.contracts.errors import BundleError, IncompatibleError, ModelFailedError
from edgefleet.contracts.manifest import ParityVectors, RuntimeRequirement
from edgefleet.runtimes.litert import LiteRtInterpreter, runtime_version
from edgefleet.runtimes.loaded_model import LoadedModel
from edgefleet.runtimes.parity import ParityReport, check_parity, difference, read_vectors, top1_differs

BundleMaker = Callable[..., Bundle]


def _outputs(model: bytes, samples: np.ndarray) -> np.ndarray:
    interpreter = LiteRtInterpreter(model, kernels="reference")
    return np.stack([interpreter.invoke([sample])[0] for sample in samples])


def _report(bundle: Bundle, kernels: Any) -> ParityReport:
    return check_parity(LoadedModel.from_bundle(bundle, kernels=kernels), bundle, kernels)


def test_the_same_model_passes_with_both_kernel_sets(digits_bundle: BundleMaker) -> None:
    bundle = digits_bundle()
    assert _report(bundle, "reference") == ParityReport(samples=8, worst=0.0, tolerance=0.0, top1_changed=0)
    production = _report(bundle, "production")
    assert production.passed
    assert production.worst <= production.tolerance == 1e-4


def test_one_output_beyond_the_tolerance_fails(
    digits_bundle: BundleMaker, digits_model: bytes, digits_samples: np.ndarray
) -> None:
    outputs = _outputs(digits_model, digits_samples)
    outputs[5, 0, 3] += 0.001
    report = _report(digits_bundle(outputs=outputs), "production")
    assert not report.passed
    assert report.worst == pytest.approx(0.001, rel=0.2)
    assert report.top1_changed == 0


def test_swapped_labels_fail_by_their_top1_even_within_a_wide_tolerance(
    digits_bundle: BundleMaker, digits_model: bytes, digits_samples: np.ndarray
) -> None:
    outputs = np.roll(_outputs(digits_model, digits_samples), 1, axis=-1)
    report = _report(digits_bundle(outputs=outputs, production=0.4), "production")
    assert not report.passed
    assert report.top1_changed > 0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_infinitely_far_off(
    bad: float, digits_bundle: BundleMaker, digits_model: bytes, digits_samples: np.ndarray
) -> None:
    outputs = _outputs(digits_model, digits_samples)
    outputs[7, 0, 9] = bad
    report = _report(digits_bundle(outputs=outputs, production=1e9), "production")
    assert report.worst == np.inf
    assert not report.passed


def test_vectors_of_a_wrong_size_are_refused(digits_bundle: BundleMaker) -> None:
    bundle = digits_bundle(
        parity=ParityVectors(samples=7, inputs=("golden/input-0.bin",), outputs=("golden/output-0.bin",))
    )
    with pytest.raises(BundleError) as caught:
        read_vectors(bundle)
    assert caught.value.message == (
        "'digits.bundle' has 2048 bytes in 'golden/input-0.bin', expected [7, 1, 8, 8, 1] of float32"
    )


def test_a_model_that_is_not_the_manifests_is_refused(digits_bundle: BundleMaker, digits_model: bytes) -> None:
    manifest = digits_bundle().manifest
    other = msgspec.structs.replace(manifest.interface.outputs[0], shape=(1, 11))
    interface = msgspec.structs.replace(manifest.interface, outputs=(other,))
    with pytest.raises(ModelFailedError) as caught:
        LoadedModel(msgspec.structs.replace(manifest, interface=interface), LiteRtInterpreter(digits_model))
    assert caught.value.message == "the model's outputs are not those of manifest.interface.outputs"


def test_a_bundle_for_another_runtime_is_refused(digits_bundle: BundleMaker) -> None:
    runtime = RuntimeRequirement(kind="tflm", minimum_version="1", numerics="tflm/1")
    with pytest.raises(IncompatibleError) as caught:
        LoadedModel.from_bundle(digits_bundle(runtime=runtime))
    assert caught.value.message == "the bundle is for the runtime 'tflm', this one is 'litert'"


@pytest.mark.parametrize("needed", ["99.0.0", "2.3.1", "2.10", "9" * 5000])
def test_a_bundle_that_needs_a_later_runtime_is_refused(needed: str, digits_bundle: BundleMaker) -> None:
    runtime = RuntimeRequirement(kind="litert", minimum_version=needed, numerics="litert/1")
    with pytest.raises(IncompatibleError) as caught:
        LoadedModel.from_bundle(digits_bundle(runtime=runtime))
    assert caught.value.message == f"the bundle needs LiteRT {needed} or later, {runtime_version()} is installed"


@pytest.mark.parametrize("needed", ["1.14", "2", "2.3", "2.3.0"])
def test_a_bundle_that_needs_this_runtime_or_an_earlier_one_loads(needed: str, digits_bundle: BundleMaker) -> None:
    runtime = RuntimeRequirement(kind="litert", minimum_version=needed, numerics="litert/1")
    assert LoadedModel.from_bundle(digits_bundle(runtime=runtime)).manifest.runtime == runtime


LSB = arrays(np.int8, (1, 10))


@given(wanted=LSB, place=st.integers(0, 9), step=st.integers(-300, 300))
def test_the_difference_of_integers_counts_steps_without_wrapping(wanted: np.ndarray, place: int, step: int) -> None:
    got = wanted.astype(np.int16)
    got[0, place] = np.clip(got[0, place] + step, -128, 127)
    moved = abs(int(got[0, place]) - int(wanted[0, place]))
    assert difference(got.astype(np.int8), wanted) == moved


def test_nan_is_only_equal_to_nan() -> None:
    nan, one, inf = (np.array([v], np.float32) for v in (np.nan, 1.0, np.inf))
    assert difference(nan, nan) == 0.0
    assert difference(inf, inf) == 0.0
    assert {difference(nan, one), difference(one, nan), difference(inf, -inf), difference(inf, nan)} == {np.inf}


@given(wanted=LSB, got=LSB, tolerance=st.integers(0, 5))
def test_a_clear_winner_that_lost_is_another_answer(wanted: np.ndarray, got: np.ndarray, tolerance: int) -> None:
    second, first = sorted(wanted[0].tolist())[-2:]
    clear = first - second > 2 * tolerance
    assert top1_differs(got, wanted, tolerance) == (
        clear and got[0].tolist().index(max(got[0])) != int(wanted.argmax())
    )


@given(wanted=LSB, noise=arrays(np.int8, (1, 10), elements=st.integers(-3, 3)))
def test_outputs_within_the_tolerance_never_change_a_clear_answer(wanted: np.ndarray, noise: np.ndarray) -> None:
    got = np.clip(wanted.astype(np.int16) + noise, -128, 127)
    assert not top1_differs(got, wanted, 3.0)


def test_a_single_output_has_no_other_class() -> None:
    assert not top1_differs(np.array([5.0]), np.array([-5.0]), 0.0)
