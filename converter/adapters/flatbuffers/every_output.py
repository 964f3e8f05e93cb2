# SPDX-License-Identifier: Apache-2.0
"""A model that gives out what each of its operators makes, so that any interpreter shows its layers."""

from ai_edge_litert.tools import flatbuffer_utils

from converter.adapters.flatbuffers.reading import graph_facts, read_model

#: Handles of state variables hold no values.
_UNREADABLE = frozenset({"resource", "variant", "string"})


def with_every_output(model: bytes) -> tuple[bytes, tuple[int, ...]]:
    """Return the model with each operator's outputs among its own, and the tensor number of each output.

    The model's own outputs come first, in their order; what its operators make follows in the order of execution, each
    tensor once. Interpreters then keep all of it until the end of an inference.

    Raises:
        UnsupportedModelError: the model is damaged.
    """
    tree = read_model(model)
    facts = graph_facts(tree, len(model))
    made = (number for operator in facts.operators for number in operator.outputs)
    numbers = tuple(
        dict.fromkeys([*facts.outputs, *(n for n in made if n >= 0 and facts.tensors[n].dtype not in _UNREADABLE)])
    )
    tree.subgraphs[0].outputs = list(numbers)
    tree.signatureDefs = []  # they name the model's own outputs only
    return bytes(flatbuffer_utils.convert_object_to_bytearray(tree)), numbers
