# SPDX-License-Identifier: Apache-2.0
"""A bundle's preprocessing as C: from what a sensor gives to the model's int8 input, the same as on every device.

Pictures, rows of numbers and waveforms are exact; spectra have a stated bound
(:mod:`converter.c.core.preprocessing_sounds`). What has no C is refused by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from converter.c.core.preprocessing_columns import columns_part
from converter.c.core.preprocessing_pictures import Frame, picture_part
from converter.c.core.preprocessing_sounds import sound_part
from converter.c.core.preprocessing_source import Part, header_text, source_text
from edgefleet.contracts.errors import SampleError, UnsupportedModelError
from edgefleet.contracts.manifest import Preprocessing, TensorSpec
from edgefleet.runtimes.preprocessing import check_parts, made_shape

__all__ = ["Frame", "GeneratedPreprocessing", "generate_preprocessing"]


@dataclass(frozen=True)
class GeneratedPreprocessing:
    """Generated files by name, the kernels that they need (relative to firmware/kernels), and scratch in bytes."""

    sources: Mapping[str, str] = field(default_factory=dict)
    kernel_sources: tuple[str, ...] = ()
    scratch_bytes: int = 0


def generate_preprocessing(
    how: Preprocessing, spec: TensorSpec, *, name: str, frame: Frame | None = None
) -> GeneratedPreprocessing:
    """Return ``NAME_preprocess.h`` and ``.c`` for an input of a model; nothing where it is in model units already.

    ``name`` is a C identifier. ``frame`` is what the camera gives; without it, pictures come in the model's own size.

    Raises:
        SampleError: the preprocessing contradicts itself, or makes another shape than the input has.
        UnsupportedModelError: a step, or the input's type, has no C.
    """
    check_parts(how)
    shape = made_shape(how)
    if shape is None:
        return GeneratedPreprocessing()
    if not _fits(shape, spec.shape):
        raise SampleError(
            f"the preprocessing makes the shape {list(shape)}, the input '{spec.name}' has {list(spec.shape)}",
            hint="correct the preprocessing, or the model's input",
        )
    if spec.dtype != "int8" or spec.scale is None or spec.zero_point is None:
        raise UnsupportedModelError(
            f"the preprocessing for the input '{spec.name}' cannot be written as C: it is {spec.dtype}, "
            "and C makes int8 inputs",
            hint="convert the model with int8 inputs",
        )
    part = _part(how, spec, name, frame)
    sources = {f"{name}_preprocess.h": header_text(part, name), f"{name}_preprocess.c": source_text(part, name)}
    return GeneratedPreprocessing(sources, part.kernel_sources, part.scratch_bytes)


def _fits(made: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Say what :func:`edgefleet.runtimes.tensors.to_model_inputs` says of a sample's shape."""
    return made == wanted or (1, *made) == wanted or made == tuple(size for size in wanted if size != 1)


def _part(how: Preprocessing, spec: TensorSpec, name: str, frame: Frame | None) -> Part:
    if how.image is not None:
        return picture_part(how.image, spec, name, frame)
    if how.audio is not None:
        return sound_part(how.audio, spec, name)
    assert how.features is not None  # noqa: S101 - made_shape knows no fourth kind
    return columns_part(how.features, spec, name)
