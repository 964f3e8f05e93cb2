# SPDX-License-Identifier: Apache-2.0
"""Recipes: read in both versions, hashed by what they say, refused where they contradict themselves or the model."""

from pathlib import Path
from typing import get_args

import msgspec
import pytest

from converter.adapters.flatbuffers.reading import read_facts
from converter.core.recipe import (
    Conditioning,
    LayerPrecision,
    RangeMethod,
    Recipe,
    Rounding,
    base_precision,
    default_recipe,
    has_integer_activations,
    layer_precisions,
    read_recipe,
    recipe_json,
    recipe_sha256,
)
from edgefleet.contracts.errors import SettingError, UnsupportedModelError
from edgefleet.contracts.manifest import Precision
from firmware_profiles import load_profile

DIGITS = Path(__file__).resolve().parents[2] / "examples" / "digits"
FACTS = read_facts((DIGITS / "v1_float32.tflite").read_bytes())
FIRST, SECOND, DENSE = (
    FACTS.tensors[o.outputs[0]].name for o in FACTS.operators if o.name in ("CONV_2D", "FULLY_CONNECTED")
)


def test_a_recipe_is_hashed_by_what_it_says_not_how_it_is_written() -> None:
    short = read_recipe(
        b'format_version = 2\nprecision = "mixed"\n[layers]\nb = "int4"\na = "float32"', source="a.toml"
    )
    long = read_recipe(
        b'# the same\nprecision = "mixed"\nconditioning = ["none", "bias-corrected", "equalized-depthwise", '
        b'"equalized"]\nranges = "minmax"\nrounding = "nearest"\nprune = true\nlayers = { a = "float32", b = "int4" }'
        b"\nformat_version = 2",
        source="b.toml",
    )
    assert recipe_sha256(short) == recipe_sha256(long)


def test_a_recipe_comes_back_from_the_json_that_a_bundle_carries() -> None:
    recipe = Recipe(precision="mixed", layers={FIRST: "int4"}, ranges="percentile", percentile=99.9, prune=False)
    assert read_recipe(recipe_json(recipe), source="recipe.json") == recipe


def test_a_recipe_of_the_first_version_says_what_it_said_then() -> None:
    old = read_recipe(b'format_version = 1\nprecision = "int8"\nconditioning = ["none"]', source="r.toml")
    assert old == Recipe(precision="int8", conditioning=("none",), prune=False)
    assert read_recipe((DIGITS / "float32.toml").read_bytes(), source="r.toml").precision == "float32"


def test_the_default_is_what_the_board_prefers() -> None:
    assert default_recipe(load_profile("raspberry-pi-4")) == Recipe(precision="int8")
    half = msgspec.structs.replace(load_profile("raspberry-pi-4"), precisions=("float16", "int8"))
    assert default_recipe(half) == Recipe(precision="float16")
    several = msgspec.structs.replace(half, precisions=("mixed",))
    assert default_recipe(several) == Recipe(precision="int8")  # nobody said which layers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('precision = "int8"', "r.toml: Object missing required field `format_version`"),
        ('format_version = 3\nprecision = "int8"', "r.toml: Invalid enum value 3 - at `$.format_version`"),
        ('format_version = 2\nprecision = "int3"', "r.toml: Invalid enum value 'int3' - at `$.precision`"),
        ('format_version = 1\nprecision = "int4"', "r.toml: Invalid enum value 'int4' - at `$.precision`"),
        ('format_version = 1\nprecision = "int8"\nranges = "mse"', "r.toml: Object contains unknown field `ranges`"),
        ('format_version = 2\nprecision = "int8"\nbits = 4', "r.toml: Object contains unknown field `bits`"),
        ('format_version = 2\nprecision = "int8"\npercentile = 3.0',
         "r.toml: Expected `float` > 50.0 - at `$.percentile`"),
        ('format_version = 2\nprecision = "int8"\nlayers = { a = "int2" }',
         "r.toml: Invalid enum value 'int2' - at `$.layers[...]`"),
        ('format_version = 2\nprecision = "float16"\nlayers = { a = "int8" }',
         'r.toml: the recipe names layers, and precision "float16" is one for all'),
        ('format_version = 2\nprecision = "mixed"', 'r.toml: precision "mixed" needs layers that differ from int8'),
    ],
)  # fmt: skip
def test_a_recipe_that_cannot_be_followed(text: str, message: str) -> None:
    with pytest.raises(SettingError) as refused:
        read_recipe(text.encode(), source="r.toml")
    assert refused.value.message == message


def test_int4_means_convolutions_and_dense_layers() -> None:
    assert layer_precisions(Recipe(precision="int4"), FACTS) == dict.fromkeys(sorted([FIRST, SECOND, DENSE]), "int4")
    spared = Recipe(precision="int4", layers={FIRST: "int8", DENSE: "float32"})
    assert layer_precisions(spared, FACTS) == {SECOND: "int4", DENSE: "float32"}


def test_only_integer_activations_need_samples() -> None:
    needing = {p for p in ("float32", "float16", "dynamic-int8", "int8", "int16x8", "int4", "mixed")
               if has_integer_activations(Recipe(precision=p))}  # fmt: skip
    assert needing == {"int8", "int16x8", "int4", "mixed"}
    assert base_precision(Recipe(precision="int16x8")) == "int16x8"


def test_a_layer_that_the_model_lacks() -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        layer_precisions(Recipe(precision="mixed", layers={"head": "float32"}), FACTS)
    assert (
        refused.value.message == "the recipe names the layer 'head', and no operator of the model writes such a tensor"
    )


def test_four_bits_for_an_operator_that_has_none() -> None:
    with pytest.raises(UnsupportedModelError) as refused:
        layer_precisions(Recipe(precision="mixed", layers={"Identity": "int4"}), FACTS)
    assert refused.value.message == (
        "the recipe wants int4 for 'Identity', a SOFTMAX, which LiteRT's reference kernels do not run"
    )
    assert refused.value.hint == 'write "int8" for it; 4 bits are for CONV_2D and FULLY_CONNECTED'


def test_the_reference_page_tells_every_field_and_choice() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "reference" / "recipe.md").read_text(encoding="utf-8")
    for field in Recipe.__struct_fields__:
        assert f"| `{field}` |" in page
    for words in (Precision, LayerPrecision, RangeMethod, Rounding, Conditioning):
        for word in get_args(words):
            assert f"`{word}`" in page
    example = page.split("```toml\n")[1].split("```")[0]
    assert read_recipe(example.encode(), source="the example").layers["scores"] == "float32"
