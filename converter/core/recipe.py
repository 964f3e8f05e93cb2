# SPDX-License-Identifier: Apache-2.0
"""The recipe: what to quantize and how, for one profile. Explicit, saved, hashed."""

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec

from converter.core.graph import GraphFacts
from edgefleet.contracts.canonical import canonical_json, sha256_hex
from edgefleet.contracts.decoding import decode_json, decode_toml
from edgefleet.contracts.errors import SettingError, UnsupportedModelError
from edgefleet.contracts.manifest import Fact, Precision
from edgefleet.contracts.profile import Profile

LayerPrecision = Literal["float32", "int8", "int16x8", "int4"]
RangeMethod = Literal["minmax", "percentile", "mse", "entropy"]
Rounding = Literal["nearest", "gptq"]
Conditioning = Literal["none", "bias-corrected", "equalized-depthwise", "equalized"]
CalibrationPart = Literal["all", "first-third"]
#: The exponent of equalization into layers that are not depthwise; None: no equalization.
EXPONENTS: dict[Conditioning, float | None] = {
    "none": None,
    "bias-corrected": None,
    "equalized-depthwise": 0.0,
    "equalized": 0.5,
}
_EVERY_CONDITIONING: tuple[Conditioning, ...] = ("none", "bias-corrected", "equalized-depthwise", "equalized")
_Conditionings = Annotated[tuple[Conditioning, ...], msgspec.Meta(min_length=1)]
#: What a layer that the recipe does not name is computed in, under each precision with integer activations.
_BASE: Mapping[str, LayerPrecision] = {"int8": "int8", "int16x8": "int16x8", "int4": "int8", "mixed": "int8"}
#: Operators whose weights the reference kernels run in 4 bits (DEPTHWISE_CONV_2D is not among them).
FOUR_BIT_OPERATORS = ("CONV_2D", "FULLY_CONNECTED")


class Recipe(Fact, frozen=True, kw_only=True):
    """What a conversion does to a float model.

    ``float32`` keeps the model; ``float16`` halves its weights. ``dynamic-int8`` stores 8-bit weights and keeps float
    activations. The others have integer activations, inputs and outputs: ``int8``; ``int16x8`` (16-bit activations);
    ``int4`` (4-bit weights of CONV_2D per output channel and of FULLY_CONNECTED per tensor, else int8); ``mixed``
    (int8, but for the named layers). ``layers`` gives single layers, named by their output tensor, a precision of
    their own.

    ``ranges`` chooses each activation's range on the calibration samples: its smallest and largest value; the share
    ``percentile`` of its values, in percent; the least squared error; the least loss of information (Kullback-Leibler).
    ``conditioning`` lists the rewrites of the float model to try before it is quantized (see
    :mod:`converter.core.numerics.conditioning`; all but ``none`` correct biases); the one whose scores come closest to
    the float model's on the calibration samples is kept, the first on a tie. ``rounding`` is how weights become
    integers. ``prune`` removes channels that are proved to be constant. ``calibrate_on`` says which of the calibration
    samples are used: all, or the first third in the order of their digests, as a search does that has to compare and
    report on the others.
    """

    format_version: Literal[2] = 2
    precision: Precision
    layers: dict[str, LayerPrecision] = msgspec.field(default_factory=dict)
    ranges: RangeMethod = "minmax"
    percentile: Annotated[float, msgspec.Meta(gt=50.0, le=100.0)] = 99.99
    conditioning: _Conditionings = _EVERY_CONDITIONING
    rounding: Rounding = "nearest"
    prune: bool = True
    calibrate_on: CalibrationPart = "all"


class _FirstRecipe(Fact, frozen=True, kw_only=True):
    """The first version of the format."""

    format_version: Literal[1]
    precision: Literal["float32", "int8"]
    conditioning: _Conditionings = _EVERY_CONDITIONING


class _Version(msgspec.Struct):
    format_version: int


def read_recipe(data: bytes, *, source: str) -> Recipe:
    """Read a recipe as TOML, or as the JSON that a bundle carries; one of version 1 says what it said then.

    Raises:
        SettingError: it is neither, a field is wrong or unknown, or two fields contradict each other.
    """
    decode = decode_json if data.lstrip()[:1] == b"{" else decode_toml
    if decode(data, _Version, source=source).format_version == 1:
        first = decode(data, _FirstRecipe, source=source)
        return Recipe(precision=first.precision, conditioning=first.conditioning, prune=False)
    recipe = decode(data, Recipe, source=source)
    _check(recipe, source)
    return recipe


def default_recipe(profile: Profile) -> Recipe:
    """Return the recipe for a float model where none is given: the precision that the board prefers."""
    preferred = profile.precisions[0]
    return Recipe(precision="int8" if preferred == "mixed" else preferred)


def recipe_sha256(recipe: Recipe) -> str:
    """Return the SHA-256 of the recipe's canonical JSON."""
    return sha256_hex(recipe_json(recipe))


def recipe_json(recipe: Recipe) -> bytes:
    """Return the recipe as canonical JSON, the form in which a bundle carries it."""
    return canonical_json(recipe)


def has_integer_activations(recipe: Recipe) -> bool:
    """Tell whether ranges of activations are needed, and so calibration samples."""
    return recipe.precision in _BASE


def base_precision(recipe: Recipe) -> LayerPrecision:
    """Return what layers that are not named are computed in, where activations are integers."""
    return _BASE[recipe.precision]


def layer_precisions(recipe: Recipe, facts: GraphFacts) -> dict[str, LayerPrecision]:
    """Return the layers that differ from the base precision, by the name of their output tensor.

    Raises:
        UnsupportedModelError: the recipe names a layer that the model lacks, or 4 bits where no runtime has them.
    """
    operators = {facts.tensors[o.outputs[0]].name: o.name for o in facts.operators if o.outputs}
    chosen: dict[str, LayerPrecision] = {}
    if recipe.precision == "int4":
        chosen = {layer: "int4" for layer, operator in operators.items() if operator in FOUR_BIT_OPERATORS}
    for layer, precision in recipe.layers.items():
        _check_layer(layer, precision, operators)
        chosen[layer] = precision
    base = base_precision(recipe)
    return {layer: precision for layer, precision in sorted(chosen.items()) if precision != base}


def _check(recipe: Recipe, source: str) -> None:
    if recipe.layers and recipe.precision not in _BASE:
        raise SettingError(
            f'{source}: the recipe names layers, and precision "{recipe.precision}" is one for all',
            hint='leave out `layers`, or write precision = "mixed"',
        )
    if recipe.precision == "mixed" and not recipe.layers:
        raise SettingError(
            f'{source}: precision "mixed" needs layers that differ from int8',
            hint='name some under [layers], for example "scores" = "float32"',
        )


def _check_layer(layer: str, precision: LayerPrecision, operators: Mapping[str, str]) -> None:
    if layer not in operators:
        raise UnsupportedModelError(
            f"the recipe names the layer '{layer}', and no operator of the model writes such a tensor",
            hint="'edgefleet inspect MODEL --json' lists the tensors; a layer has the name of its output",
        )
    if precision == "int4" and operators[layer] not in FOUR_BIT_OPERATORS:
        raise UnsupportedModelError(
            f"the recipe wants int4 for '{layer}', a {operators[layer]}, which LiteRT's reference kernels do not run",
            hint=f'write "int8" for it; 4 bits are for {" and ".join(FOUR_BIT_OPERATORS)}',
        )
