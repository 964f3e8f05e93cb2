# SPDX-License-Identifier: Apache-2.0
"""What people read of a run on a board, and of a comparison."""

from fleet_emulation.emulate.parity import Comparison, Difference, ParityDocument
from fleet_emulation.emulate.running import BoardRun


def run_text(done: BoardRun) -> str:
    """Return a run's figures, and what each layer costs."""
    kind = ", updatable" if done.updatable else ""
    lines = [
        f"{done.output}: {done.samples} samples on {done.profile} ({done.compiler}, {done.kernels} kernels{kind})",
        "",
        f"instructions  {done.instructions:>12,}  for one inference, the most expensive sample",
        f"loads         {done.loads:>12,}  words",
        f"stores        {done.stores:>12,}  words",
        f"cycles        {done.cycles:>12,}  {done.cost_model}",
        f"initialising  {done.init_instructions:>12,}  instructions",
        f"stack         {done.stack_bytes:>12,}  bytes",
        f"flash         {done.flash_bytes:>12,}  bytes: model {done.model_bytes:,}, code {done.code_bytes:,}",
        f"memory        {done.ram_bytes:>12,}  bytes beside the stack: arena {done.arena_bytes:,}",
        "",
        *_layers(done),
    ]
    return "\n".join(lines)


def _layers(done: BoardRun) -> list[str]:
    width = max((len(layer.operator) for layer in done.layers), default=0)
    whole = max(done.instructions, 1)
    return [
        f"{layer.operator:<{width}}  {layer.instructions:>11,}  {layer.instructions / whole:6.1%}  {layer.variant}"
        for layer in done.layers
    ]


def parity_text(document: ParityDocument) -> str:
    """Return where a model gave the reference's bytes, and where not."""
    samples = f"{document.samples} samples, {document.numerics}, against {document.reference}"
    missing = [] if document.complete else ["", "install what is named, or leave those places out: --allow-missing"]
    return "\n".join([f"{document.model}: {samples}", "", *map(_comparison, document.comparisons), *missing])


def _comparison(comparison: Comparison) -> str:
    if comparison.difference is not None:
        return f"different  {comparison.where}: {_difference(comparison.difference)}"
    if comparison.why is not None:
        return f"not run    {comparison.where}: {comparison.why}"
    return f"same       {comparison.where}: {comparison.layers} layers, bit for bit"


def _difference(found: Difference) -> str:
    return (
        f"first in operator {found.operator} ({found.tensor}), sample {found.sample}: {found.elements} of {found.of} "
        f"elements, element {found.first} is {found.got:g}, expected {found.expected:g}"
    )
