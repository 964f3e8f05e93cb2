# SPDX-License-Identifier: Apache-2.0
"""One request's way through a model: its input prepared, the model run, its outputs kept and read.

What a model allows is decided once, when it is loaded. Steps are few, as a small model takes microseconds.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy.typing as npt

from edgefleet.contracts.manifest import TensorSpec
from edgefleet.runtimes.litert import Direct, failed
from edgefleet.runtimes.loaded_model import LoadedModel
from edgefleet.runtimes.quick_answers import Kept, Reading, answer_reader, bytes_reader
from edgefleet.runtimes.quick_inputs import quick_input

Array = npt.NDArray[Any]
Prepare: TypeAlias = Callable[[Sequence[Array]], Sequence[Array]]
#: Takes one raw sample. Raises SampleError where it does not fit or has NaN or infinite values, and ModelFailedError.
Ask: TypeAlias = Callable[[Sequence[Array]], tuple[Kept, Reading]]


def asker(model: LoadedModel, prepare: Prepare, lock: threading.Lock) -> Ask:
    """Return what asks a model; ``prepare`` turns any raw sample into its tensors, ``lock`` is held while it runs."""
    direct = getattr(model.interpreter, "direct", None)
    if isinstance(direct, Direct) and not model.manifest.interface.roles:
        return _directly(model, direct, prepare, lock)
    outputs = model.manifest.interface.outputs
    read, read_bytes = answer_reader(outputs), bytes_reader(outputs)

    def ask(raw: Sequence[Array]) -> tuple[Kept, Reading]:
        with lock:
            tensors = model.invoke(prepare(raw))
        if read_bytes is None:
            return tensors, read(tensors)
        kept = tensors[0].tobytes()
        return kept, read_bytes(kept)

    return ask


def _directly(model: LoadedModel, direct: Direct, prepare: Prepare, lock: threading.Lock) -> Ask:
    """Ask a model whose input and output stay where they are: these are written and read in place."""
    interface = model.manifest.interface
    place, run = direct.taken, direct.run
    fill = quick_input(interface.inputs, model.manifest.preprocessing, place)
    keep, read = _kept_and_read(direct.given, interface.outputs)

    def ask(raw: Sequence[Array]) -> tuple[Any, Reading]:
        with lock:
            tensor = fill(raw[0]) if len(raw) == 1 else None
            if tensor is None:
                (tensor,) = prepare(raw)
            if tensor is not place:
                place[...] = tensor
            try:
                run()
            except (ValueError, RuntimeError) as error:
                raise failed(error) from error
            kept = keep()
        return kept, read(kept)

    return ask


def _kept_and_read(given: Array, specs: Sequence[TensorSpec]) -> tuple[Callable[[], Any], Callable[[Any], Reading]]:
    """Return what keeps the output before the next inference changes it, and what reads the kept."""
    read_bytes = bytes_reader(specs)
    if read_bytes is not None:
        return memoryview(given).cast("B").tobytes, read_bytes  # type: ignore[arg-type]
    copy = given.copy
    return lambda: [copy()], answer_reader(specs)
