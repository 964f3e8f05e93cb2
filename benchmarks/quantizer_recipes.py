# SPDX-License-Identifier: Apache-2.0
"""ai-edge-quantizer's recipes for every mode of the matrix: what a user of that library would write."""

from collections.abc import Callable

from ai_edge_quantizer import qtyping, recipe_manager
from ai_edge_quantizer.recipe_manager import RecipeManager as Recipe

Operator, Granularity = qtyping.TFLOperationName, qtyping.QuantGranularity


def _float16(recipe: Recipe) -> None:
    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
    )
    recipe.add_quantization_config(".*", Operator.ALL_SUPPORTED, config, recipe_manager.AlgorithmName.FLOAT_CASTING)


def _static(activations: int, **narrow: int) -> Callable[[Recipe], None]:
    """Integers throughout; ``narrow`` gives operators other weights than eight bits."""

    def how(recipe: Recipe) -> None:
        recipe.add_static_config(".*", Operator.ALL_SUPPORTED, activations, 8)
        for operator, bits in narrow.items():
            recipe.add_static_config(".*", Operator[operator], activations, bits)

    return how


def _dense_in_four_bits(recipe: Recipe) -> None:
    recipe.add_static_config(".*", Operator.ALL_SUPPORTED, 8, 8)
    config = qtyping.OpQuantizationConfig(
        activation_tensor_config=qtyping.TensorQuantizationConfig(num_bits=8, symmetric=False),
        weight_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=4, symmetric=True, granularity=Granularity.TENSORWISE
        ),
        compute_precision=qtyping.ComputePrecision.INTEGER,
    )
    recipe.add_quantization_config(".*", Operator.FULLY_CONNECTED, config)


def _dynamic(bits: int, *operators: str, per_channel: bool = True) -> Callable[[Recipe], None]:
    granularity = Granularity.CHANNELWISE if per_channel else Granularity.TENSORWISE
    chosen = [Operator[name] for name in operators] or [Operator.ALL_SUPPORTED]

    def how(recipe: Recipe) -> None:
        for operator in chosen:
            recipe.add_dynamic_config(".*", operator, bits, granularity)

    return how


def _dynamic_for_old_runtimes(recipe: Recipe) -> None:
    recipe.add_dynamic_config(".*", Operator.ALL_SUPPORTED, 8, Granularity.CHANNELWISE)
    recipe.add_dynamic_config(".*", Operator.FULLY_CONNECTED, 8, Granularity.TENSORWISE)


def _weights_only(bits: int, granularity: qtyping.QuantGranularity) -> Callable[[Recipe], None]:
    return lambda recipe: recipe.add_weight_only_config(".*", Operator.ALL_SUPPORTED, bits, granularity)


def _last_layers_in_16(recipe: Recipe) -> None:
    recipe.add_static_config(".*", Operator.ALL_SUPPORTED, 8, 8)
    recipe.add_static_config(".*", Operator.FULLY_CONNECTED, 16, 8)


MODES: dict[str, Callable[[Recipe], None] | None] = {
    "float32": None,
    "float16": _float16,
    "dynamic-int8": _dynamic(8),
    "dynamic-int8, dense per tensor": _dynamic_for_old_runtimes,
    "dynamic-int8 per tensor": _dynamic(8, per_channel=False),
    "dynamic-int4": _dynamic(4, "CONV_2D"),
    "weight-only int8": _weights_only(8, Granularity.CHANNELWISE),
    "weight-only int8 per tensor": _weights_only(8, Granularity.TENSORWISE),
    "weight-only int4": _weights_only(4, Granularity.CHANNELWISE),
    "int8": _static(8),
    "int16x8": _static(16),
    "int4 (CONV_2D)": _static(8, CONV_2D=4),
    "int4 (dense per channel)": _static(8, FULLY_CONNECTED=4),
    "int4 (dense per tensor)": _dense_in_four_bits,
    "int4 under int16 (CONV_2D)": _static(16, CONV_2D=4),
    "mixed (dense in int16x8)": _last_layers_in_16,
}
