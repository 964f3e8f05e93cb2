# SPDX-License-Identifier: Apache-2.0
"""The names of a model's inputs and outputs, which applications use: as they were before it was quantized."""

from ai_edge_litert.tools import flatbuffer_utils

from converter.adapters.flatbuffers.reading import read_model
from converter.core.graph import GraphFacts


def with_end_names(model: bytes, source: GraphFacts) -> bytes:
    """Return the model with inputs and outputs named as those of its float source.

    ai-edge-quantizer calls an output whose operator stays in float ``NAME_quantized``; the tensor before it, which had
    the name, goes by its number.

    Raises:
        UnsupportedModelError: the flatbuffer is damaged.
    """
    tree = read_model(model)
    tensors = tree.subgraphs[0].tensors
    before = (*source.inputs, *source.outputs)
    ends = {
        int(number): source.tensors[old].name.encode()
        for number, old in zip((*tree.subgraphs[0].inputs, *tree.subgraphs[0].outputs), before, strict=True)
    }
    if all(tensors[number].name == name for number, name in ends.items()):
        return model
    taken = set(ends.values())
    for number, tensor in enumerate(tensors):
        if tensor.name in taken:
            tensor.name = b"t%d" % number
    for number, name in ends.items():
        tensors[number].name = name
    return bytes(flatbuffer_utils.convert_object_to_bytearray(tree))
