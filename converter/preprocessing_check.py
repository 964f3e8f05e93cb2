# SPDX-License-Identifier: Apache-2.0
"""Whether another channel order or scale scores much better: the commonest mistake, told while it can be corrected."""

from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from converter.adapters.running.execution import predict
from converter.adapters.samples.sets import SampleSet, canonical_order
from converter.core.parity_choice import spread
from converter.core.scoring import top1
from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.manifest import ImagePreprocessing, Preprocessing, Task
from edgefleet.runtimes.litert import LiteRtInterpreter
from edgefleet.runtimes.metrics import paired_accuracy_interval
from edgefleet.runtimes.preprocessing import preprocess, preprocess_image
from edgefleet.runtimes.tensors import to_model_inputs

Array = npt.NDArray[Any]
_MOST_SAMPLES = 64
#: What counts as much better: this share of the samples more, with this certainty (several ways are tried).
_MUCH = 0.1
_LEVEL = 0.999
#: Scale and offset of pixels as trainings use them: as they are, from 0 to 1, from -1 to 1.
_SCALES = ((1.0, 0.0), (1.0 / 255.0, 0.0), (1.0 / 127.5, -1.0))
_PICTURE_RANK = 3
_COLOURS = 3


class _Way(NamedTuple):
    """One way to make a model's input from a raw sample, in words."""

    words: str
    apply: Callable[[Array], Array]


def better_preprocessing(model: bytes, samples: SampleSet, how: Preprocessing, task: Task) -> str | None:
    """Return a warning where pictures in another channel order or scale are answered much better; else None.

    Looks at 64 labelled samples at most, for classifiers of one picture only. ``model`` is the source model. The
    figures come from the production kernels: they belong into evidence, not into a bundle.
    """
    interpreter = LiteRtInterpreter(model)
    ways = _ways(_as_image(how, samples, interpreter), interpreter)
    if task != "classification" or samples.labels is None or not ways:
        return None
    order = canonical_order(samples)
    chosen = [order[place] for place in spread(min(_MOST_SAMPLES, len(order)), len(order))]
    labels = samples.labels[chosen]
    now = _right(interpreter, samples, chosen, labels, lambda raw: preprocess(raw, how))
    tried = [(_right(interpreter, samples, chosen, labels, way.apply), way.words) for way in ways]
    best, words = max(tried, key=lambda found: int(found[0].sum()))
    if best.mean() - now.mean() < _MUCH or paired_accuracy_interval(now, best, level=_LEVEL).low <= 0.0:
        return None
    return (
        f"on {len(chosen)} labelled samples the float model is right in {best.mean():.0%} {words}, "
        f"and in {now.mean():.0%} as they come: check channel order and scale in the preprocessing"
    )


def _right(
    interpreter: LiteRtInterpreter,
    samples: SampleSet,
    chosen: list[int],
    labels: Array,
    way: Callable[[Array], Array],
) -> npt.NDArray[np.bool_]:
    """Return which samples are answered right; a way that a sample cannot go answers none."""

    def inputs() -> Iterator[list[Array]]:
        for number in chosen:
            yield to_model_inputs([way(samples.raw(number)[0])], interpreter.inputs)

    try:
        right: npt.NDArray[np.bool_] = top1(predict(interpreter, inputs(), "classification")) == labels
    except EdgeFleetError:
        return np.zeros(len(chosen), np.bool_)
    return right


def _as_image(how: Preprocessing, samples: SampleSet, interpreter: LiteRtInterpreter) -> Preprocessing:
    """Return the preprocessing that leaves 8-bit pictures as they are, in words, where they come without any."""
    raw, shape = samples.raw(0)[0], interpreter.inputs[0].shape
    if how != Preprocessing() or raw.dtype != np.uint8 or len(shape) != _PICTURE_RANK + 1 or raw.shape != shape[1:]:
        return how
    channels: Literal["RGB", "GRAY"] = "RGB" if shape[-1] == _COLOURS else "GRAY"
    return Preprocessing(image=ImagePreprocessing(size=(shape[1], shape[2]), channels=channels))


def _ways(how: Preprocessing, interpreter: LiteRtInterpreter) -> list[_Way]:
    """Return what else the input might be, where it is one picture; nothing where it is none."""
    if len(interpreter.inputs) != 1 or len(interpreter.inputs[0].shape) != _PICTURE_RANK + 1:
        return []
    if how.image is not None:
        return _picture_ways(how.image)
    if how.audio is not None or how.features is not None:
        return []
    return _array_ways(interpreter.inputs[0].shape[-1] == _COLOURS)


def _picture_ways(image: ImagePreprocessing) -> list[_Way]:
    orders: tuple[Literal["RGB", "BGR", "GRAY"], ...] = ("GRAY",) if image.channels == "GRAY" else ("RGB", "BGR")
    ways = []
    for channels in orders:
        for scale, offset in ((image.scale, image.offset), *_SCALES):
            other = msgspec.structs.replace(image, channels=channels, scale=scale, offset=offset)
            if other != image:
                words = f'with channels = "{channels}", scale = {scale:.6g}, offset = {offset:g}'
                ways.append(_Way(words, _with(other)))
    return ways


def _with(image: ImagePreprocessing) -> Callable[[Array], Array]:
    return lambda raw: preprocess_image(raw, image)


def _array_ways(colours: bool) -> list[_Way]:
    ways = [
        _Way("multiplied by 255", lambda raw: np.multiply(raw, np.float32(255.0))),
        _Way("divided by 255", lambda raw: np.divide(raw, np.float32(255.0))),
        _Way("divided by 127.5, less 1", lambda raw: np.divide(raw, np.float32(127.5)) - np.float32(1.0)),
    ]
    if colours:
        ways.append(_Way("with their channels the other way round", lambda raw: np.ascontiguousarray(raw[..., ::-1])))
    return ways
