# SPDX-License-Identifier: Apache-2.0
"""Round a layer's weights so that its outputs change least, not its weights.

Rounding to the nearest step is best for each weight alone. What counts is the output: with inputs ``x`` the squared
error of a row of weights is ``e H eᵀ``, ``e`` its rounding error and ``H`` the sum of ``xᵀ x`` over samples. Weights
are rounded one input at a time, and each error is carried over to the inputs that are still to come: GPTQ (Frantar et
al., "GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers", ICLR 2023), in the form that
QuIP shows to be the same (Chee et al., NeurIPS 2023, section 3): with ``H = (U + I) D (U + I)ᵀ``, ``U`` strictly upper
triangular, input ``k`` gets ``Q(wₖ + Σᵢ<ₖ (wᵢ - ŵᵢ) Uᵢₖ)``. Then single weights move by a step as long as that helps.

The integers decide a bundle's bytes, so nothing here depends on a processor: sums run element by element in one order,
no linear algebra library is asked, and where one multiplies matrices, all are integers below 2⁵³, whose sums are exact.
"""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
#: Added to the diagonal, as a share of its mean: inputs that samples hardly excite must not take all errors.
_DAMPING = 0.01
_PASSES = 3
#: Scales to try, in 64ths of the one at which the largest weight just fits.
_SHARES = tuple(range(64, 25, -1))
_EXACT_BITS = 52
#: The smallest normal float32.
_SMALLEST = 2.0**-126


def round_layer(weights: Array, hessian: Array, scale: Array, levels: int) -> Array:
    """Return integers from ``-levels`` to ``levels``, int8, shape (outputs, inputs).

    ``weights`` has shape (outputs, inputs), the inputs of a convolution being its taps times its channels; ``hessian``
    (inputs, inputs) sums ``xᵀ x`` over samples, best of integer inputs, so that it is exact; any positive factor on it
    changes nothing. ``scale`` has shape (outputs,) or (1,): a weight is its integer times that. A depthwise layer is
    rounded channel by channel, each with the hessian of its own taps.
    """
    rows = weights.astype(np.float64)
    scales = np.broadcast_to(np.asarray(scale, dtype=np.float64), (len(rows),))[:, np.newaxis]
    energy = _damped(hessian)
    order = np.argsort(-np.diag(energy), kind="stable")  # the largest errors first, while others can still make up
    energy, rows = energy[np.ix_(order, order)], rows[:, order]
    steps = _carried_over(rows, _upper_factor(energy), scales, levels)
    steps = _improved(rows, energy, steps, scales, levels)
    nearest = np.clip(np.rint(rows / scales), -levels, levels)
    reach = np.abs(rows).max(axis=1, keepdims=True, initial=0.0) + scales * levels
    worse = np.greater(*(output_errors((tried * scales - rows) / reach, energy) for tried in (steps, nearest)))
    integers = np.empty_like(steps)
    integers[:, order] = np.where(worse[:, np.newaxis], nearest, steps)
    return integers.astype(np.int8)


def best_scales(weights: Array, hessian: Array, levels: int, *, one_for_all: bool = False) -> Array:
    """Return the scales, float64 values that float32 can hold, whose nearest rounding changes the outputs least.

    Shape (outputs,), or (1,) with ``one_for_all``. A smaller scale clips the largest weights and tells the others
    better; of equally good ones it is the largest.
    """
    rows = weights.astype(np.float64)
    largest = np.abs(rows).max(axis=1)
    if one_for_all:
        largest = np.broadcast_to(largest.max(initial=0.0), (len(rows),))
    unit = np.where(largest > 0.0, largest, 1.0)
    best, least = np.zeros(len(rows)), np.full(len(rows), np.inf)
    for share in _SHARES:
        scales = np.maximum(unit * share / (_SHARES[0] * levels), _SMALLEST).astype(np.float32).astype(np.float64)
        errors = np.clip(np.rint(rows / scales[:, np.newaxis]), -levels, levels) * scales[:, np.newaxis] - rows
        lost = output_errors(errors / unit[:, np.newaxis], hessian)
        if one_for_all:
            lost = np.broadcast_to(math.fsum(lost.tolist()), lost.shape)
        better = lost < least
        best, least = np.where(better, scales, best), np.where(better, lost, least)
    return best[:1] if one_for_all else best


def output_errors(errors: Array, hessian: Array) -> Array:
    """Return ``e H eᵀ`` of each row, relative to one another: the same on every processor.

    Both factors are rounded to integers so small that no product of matrices can exceed 2⁵³. ``errors`` must lie
    within ±1.
    """
    bits = (_EXACT_BITS - math.ceil(math.log2(max(hessian.shape[0], 2)))) // 2
    top = float(np.abs(hessian).max(initial=0.0)) or 1.0
    whole_errors = np.rint(errors * 2.0**bits)
    carried = whole_errors @ np.rint(hessian / top * 2.0**bits)
    shortened = np.rint(carried / 2.0 ** (_EXACT_BITS - bits))
    return np.asarray((shortened * whole_errors).sum(axis=1))


def _damped(hessian: Array) -> Array:
    energy = hessian.astype(np.float64)
    diagonal = np.diag(energy)
    mean = math.fsum(diagonal.tolist()) / len(diagonal)
    energy[np.diag_indices_from(energy)] = diagonal + (_DAMPING * mean if mean > 0.0 else 1.0)
    return energy


def _upper_factor(energy: Array) -> Array:
    """Return ``U`` of ``H = (U + I) D (U + I)ᵀ``, strictly upper triangular."""
    rest, factor = energy.copy(), np.zeros_like(energy)
    for last in range(len(energy) - 1, 0, -1):
        column = rest[:last, last] / rest[last, last]
        factor[:last, last] = column
        rest[:last, :last] -= np.multiply.outer(column, rest[:last, last])
    return factor


def _carried_over(rows: Array, factor: Array, scales: Array, levels: int) -> Array:
    wanted, steps = rows.copy(), np.zeros_like(rows)
    for column in range(rows.shape[1]):
        steps[:, column] = np.clip(np.rint(wanted[:, column] / scales[:, 0]), -levels, levels)
        missed = rows[:, column] - steps[:, column] * scales[:, 0]
        wanted[:, column + 1 :] += np.multiply.outer(missed, factor[column, column + 1 :])
    return steps


def _improved(rows: Array, energy: Array, steps: Array, scales: Array, levels: int) -> Array:
    """Move single weights to where the output's error is least while all others stay, input by input."""
    steps = steps.copy()
    errors = steps * scales - rows
    slopes = np.zeros_like(rows)
    for column in range(rows.shape[1]):
        slopes += np.multiply.outer(errors[:, column], energy[column])
    for _ in range(_PASSES):
        moved_any = False
        for column in range(rows.shape[1]):
            ideal = steps[:, column] - slopes[:, column] / (energy[column, column] * scales[:, 0])
            moves = np.clip(np.rint(ideal), -levels, levels) - steps[:, column]
            changed = np.flatnonzero(moves)
            if changed.size:
                moved_any = True
                steps[changed, column] += moves[changed]
                slopes[changed] += np.multiply.outer(moves[changed] * scales[changed, 0], energy[column])
        if not moved_any:
            break
    return steps
