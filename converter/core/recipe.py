# SPDX-License-Identifier: Apache-2.0
"""The recipe: what to quantize and how, for one profile. Explicit, saved, hashed."""

from typing import Annotated, Literal

import msgspec

from edgefleet.contracts.canonical import canonical_json, sha256_hex
from edgefleet.contracts.decoding import decode_toml
from edgefleet.contracts.errors import UnsupportedModelError
from edgefleet.contracts.manifest import Fact
from edgefleet.contracts.profile import Profile

RecipePrecision = Literal["float32", "int8"]
Conditioning = Literal["none", "bias-corrected", "equalized-depthwise", "equalized"]
#: The exponent of equalization into layers that are not depthwise; None: no equalization.
EXPONENTS: dict[Conditioning, float | None] = {
    "none": None,
    "bias-corrected": None,
    "equalized-depthwise": 0.0,
    "equalized": 0.5,
}


class Recipe(Fact, frozen=True, kw_only=True):
    """What a conversion does to a float model.

    ``int8``: weights per output channel, activations per tensor from the global minimum and maximum over the
    calibration samples, integer inputs and outputs. ``float32``: the model as it is.
    ``conditioning`` lists the rewrites of the float model to try before it is quantized (see
    :mod:`converter.core.conditioning`; all but ``none`` correct biases); the one whose scores come closest to the
    float model's on the calibration samples is kept, the first on a tie.
    """

    format_version: Literal[1]
    precision: RecipePrecision
    conditioning: Annotated[tuple[Conditioning, ...], msgspec.Meta(min_length=1)] = (
        "none",
        "bias-corrected",
        "equalized-depthwise",
        "equalized",
    )


def read_recipe(data: bytes, *, source: str) -> Recipe:
    """Read a recipe's TOML.

    Raises:
        SettingError: it is not TOML, or a field is wrong or unknown.
    """
    return decode_toml(data, Recipe, source=source)


def default_recipe(profile: Profile) -> Recipe:
    """Return the recipe for a float model where none is given: the board's preferred precision that this room makes.

    Raises:
        UnsupportedModelError: the board runs none of them.
    """
    for precision in profile.precisions:
        if precision == "int8" or precision == "float32":
            return Recipe(format_version=1, precision=precision)
    raise UnsupportedModelError(
        f"profile '{profile.id}' runs {', '.join(profile.precisions)}; a float model becomes int8 or float32",
        hint="give a model that is quantized already, or choose another profile",
    )


def recipe_sha256(recipe: Recipe) -> str:
    """Return the SHA-256 of the recipe's canonical JSON."""
    return sha256_hex(canonical_json(recipe))
