# SPDX-License-Identifier: Apache-2.0
"""The recipe: what to quantize and how, for one profile. Explicit, saved, hashed."""

from typing import Literal

from edgefleet.contracts.canonical import canonical_json, sha256_hex
from edgefleet.contracts.decoding import decode_toml
from edgefleet.contracts.errors import UnsupportedModelError
from edgefleet.contracts.manifest import Fact
from edgefleet.contracts.profile import Profile

RecipePrecision = Literal["float32", "int8"]


class Recipe(Fact, frozen=True, kw_only=True):
    """What a conversion does to a float model.

    ``int8``: weights per output channel, activations per tensor from the global minimum and maximum over the
    calibration samples, integer inputs and outputs. ``float32``: the model as it is.
    ``equalize`` lets the converter even out channel ranges first, and keep that where the calibration samples say
    that the outputs come closer to the float model's.
    """

    format_version: Literal[1]
    precision: RecipePrecision
    equalize: bool = True


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
