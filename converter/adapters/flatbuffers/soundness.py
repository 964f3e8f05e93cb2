# SPDX-License-Identifier: Apache-2.0
"""Whether a model's shapes are what the interpreter makes of them: everything here that reads shapes relies on it.

LiteRT computes the shape of every tensor anew, and never looks at the one that is written for what an operator makes.
A damaged file that runs can so declare a tensor of a billion rows.
"""

from typing import Any

from edgefleet.contracts.errors import UnsupportedModelError

_HINT = "the file is damaged, or was exported with shapes that are not fixed: export it again with a batch of one"


def check_shapes(model: bytes) -> None:
    """Refuse a model that declares other shapes than it computes. Only for models that passed the probe.

    Raises:
        UnsupportedModelError: the first tensor that contradicts itself.
    """
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    interpreter = Interpreter(model_content=model, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    try:
        declared = _shapes(interpreter)
        interpreter.allocate_tensors()
        computed = _shapes(interpreter)
    except (ValueError, RuntimeError) as error:
        raise UnsupportedModelError(f"the model's tensors cannot be read: {_first_line(error)}", hint=_HINT) from error
    unreadable = sorted(set(range(max(declared, default=-1))) - set(declared))
    if unreadable:
        raise UnsupportedModelError(f"the model's tensor {unreadable[0]} cannot be read", hint=_HINT)
    for number, shape in declared.items():
        found = computed.get(number, shape)
        if found != shape:
            raise UnsupportedModelError(
                f"the model declares shape {list(shape)} for tensor {number}, and computes {list(found)}", hint=_HINT
            )


def _shapes(interpreter: Any) -> dict[int, tuple[int, ...]]:
    return {int(each["index"]): tuple(map(int, each["shape"])) for each in interpreter.get_tensor_details()}


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
