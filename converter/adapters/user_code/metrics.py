# SPDX-License-Identifier: Apache-2.0
"""``--metric NAME`` or ``--metric module:function``: one of the task's metrics, or a user's own."""

from collections.abc import Callable
from typing import Any

import numpy.typing as npt

from converter.adapters.user_code.functions import load_function
from converter.core.scoring import Metric, default_metric, task_metrics
from edgefleet.contracts.errors import InputError
from edgefleet.contracts.manifest import Manifest, Task

Array = npt.NDArray[Any]
_HINT = "write a function(outputs, labels) -> float in a module that Python finds, or in this folder"


def load_metric(name: str | None, task: Task) -> Metric:
    """Return the task's own metric, one that it has by name, or the user's: ``function(outputs, labels) -> float``.

    Raises:
        InputError: the task has none of that name, or the user's cannot be imported or called.
    """
    if name is None:
        return default_metric(task)
    known = task_metrics(task)
    for metric in known:
        if metric.name == name:
            return metric
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        names = ", ".join(metric.name for metric in known)
        raise InputError(f"--metric is '{name}', expected {names} (for {task}) or module:function", hint=_HINT)
    return own_metric(name, load_function(name, what="metric", hint=_HINT))


def recorded_metric(name: str | None, manifest: Manifest, *, source: str) -> Metric:
    """Return the metric of that name, or the one that a bundle was scored with where none is named.

    A bundle may come from anywhere: it never chooses what is imported. ``source`` is what the user calls it.

    Raises:
        InputError: the bundle's metric is its maker's own and was not named, or :func:`load_metric` refuses the name.
    """
    if name is None and ":" in manifest.metric:
        raise InputError(
            f"'{source}' was scored with a metric of its maker's own, '{manifest.metric}'",
            hint=f"if you have that code and trust it, name it: --metric {manifest.metric}",
        )
    return load_metric(name or manifest.metric, manifest.task)


def own_metric(name: str, function: Callable[[Array, Array], float]) -> Metric:
    """Return a user's function(outputs, labels) as a metric; what it raises becomes an InputError.

    An error says so by an attribute: ``function.larger_is_better = False``.
    """

    def measured(outputs: Array, labels: Array) -> float:
        try:
            return float(function(outputs, labels))
        except Exception as error:  # a user's function may raise anything
            raise InputError(f"the metric '{name}' failed: {type(error).__name__}: {error}", hint=_HINT) from error

    return Metric(name, measured, larger_is_better=bool(getattr(function, "larger_is_better", True)))
