# SPDX-License-Identifier: Apache-2.0
"""The generator's two languages: the graph that it reads, and the kernel calls that it writes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from edgefleet.contracts.manifest import Numerics

KernelSet = Literal["portable", "dsp", "helium"]

#: What a call reads or writes: a value of the graph by its number; by its name what only one operator's calls share, or
#: a state variable.
Operand = int | str


@dataclass(frozen=True)
class Target:
    """What the code is for: how it rounds, and which kernels the processor has."""

    numerics: Numerics
    kernel_set: KernelSet


@dataclass(frozen=True, eq=False)
class Value:
    """One tensor of the graph.

    ``dtype`` is ``int8``, ``int4``, ``int32``, ``float32`` or ``resource``; ``data`` holds a constant in its shape
    (int4 as one int8 a weight) and is ``None`` for what is computed. ``scales`` are exact float32 values, one, or one
    for each index along ``channel_axis``; empty where the tensor is not quantized.
    """

    number: int
    name: str
    shape: tuple[int, ...]
    dtype: str
    scales: tuple[float, ...] = ()
    zero_point: int = 0
    channel_axis: int = 0
    data: npt.NDArray[np.generic] | None = None


@dataclass(frozen=True)
class Operator:
    """One operator: its place in the file, its name in TFLite's schema, its values (-1: left out) and its options.

    ``options`` has the schema's own names (``strideH``, ``fusedActivationFunction``, ``beta``), enumerations as
    numbers.
    """

    number: int
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, int | float | bool | str] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """A model to be written as C; ``once`` runs when the arena is bound (first values of state variables)."""

    values: Mapping[int, Value]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    once: tuple[Operator, ...] = ()


@dataclass(frozen=True)
class Call:
    """One call of a kernel variant.

    Its parameters in the blob are a uint32 arena offset for each of ``inputs``, ``outputs`` and the scratch, then
    ``body``. ``in_place`` lists the inputs (by position) whose memory the first output may take: the variant reads each
    element before it writes what lies there. ``note`` says in words what the layer is, for people who read the code.
    """

    variant: str
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]
    body: bytes
    scratch_bytes: int = 0
    in_place: tuple[int, ...] = ()
    macs: int = 0
    note: str = ""


@dataclass(frozen=True)
class Lowered:
    """What one operator becomes: calls in order, sizes of what only they share, and outputs that are another value.

    ``aliases`` maps an output to the value, or state variable, whose memory and bytes it is (reshape); ``temporaries``
    gives bytes by name; ``states`` the same for memory that lives as long as the arena and that all operators share.
    ``first`` are calls for when the arena is bound: they run before those of the graph's ``once``.
    """

    calls: tuple[Call, ...] = ()
    temporaries: Mapping[str, int] = field(default_factory=dict)
    aliases: Mapping[int, Operand] = field(default_factory=dict)
    states: Mapping[str, int] = field(default_factory=dict)
    first: tuple[Call, ...] = ()
