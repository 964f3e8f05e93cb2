# SPDX-License-Identifier: Apache-2.0
"""A board's accelerator in the worker: models that may use it do, and each falls back to the processor for good.

An accelerator is an external delegate, a shared library that takes over parts of a model's graph. It may be missing,
refuse a model, answer wrongly or fail in the middle of a request; none of that is the model's fault. A model that lost
it is proved on the processor's kernels by its parity vectors before they answer, and stays there until the worker
starts again.
"""

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy.typing as npt

from device_agent.core.serving import AcceleratorLost
from device_agent.core.settings.accelerator_settings import AcceleratorSettings
from edgefleet.contracts.bundle import Bundle
from edgefleet.contracts.errors import EdgeFleetError, ModelFailedError
from edgefleet.contracts.manifest import Manifest, TensorSpec
from edgefleet.runtimes.interpreter import Interpreter
from edgefleet.runtimes.litert import Delegate
from edgefleet.runtimes.loaded_model import LoadedModel
from edgefleet.runtimes.parity import check_parity

Array = npt.NDArray[Any]
_DETAIL_LENGTH = 1000


class Accelerator:
    """Loads models; ``given`` is the board's accelerator, None where it has none."""

    def __init__(self, given: AcceleratorSettings | None = None) -> None:
        self._given = given
        self._lost: set[str] = set()
        self._reports: deque[AcceleratorLost] = deque()

    def load(self, bundle: Bundle, *, threads: int) -> LoadedModel:
        """Load a bundle's model, on the accelerator if it may use it and did not lose it.

        Raises:
            EdgeFleetError: the model does not load on the processor either.
        """
        given = self._given
        if given is None or bundle.sha256 in self._lost or not may_use(bundle.manifest, given):
            return LoadedModel.from_bundle(bundle, threads=threads)
        try:
            return self._accelerated(bundle, given, threads)
        except EdgeFleetError as error:
            cause = error.message
        model = LoadedModel.from_bundle(bundle, threads=threads)
        self.lose(bundle, f"{cause}; {proved(model, bundle)}")
        return model

    def lose(self, bundle: Bundle, detail: str) -> None:
        """Remember and report that a model lost the accelerator."""
        self._lost.add(bundle.sha256)
        self._reports.append(AcceleratorLost(bundle_sha256=bundle.sha256, detail=detail[:_DETAIL_LENGTH]))

    def take_reports(self) -> list[AcceleratorLost]:
        """Return what was lost since the last call."""
        taken = []
        while self._reports:
            taken.append(self._reports.popleft())
        return taken

    def _accelerated(self, bundle: Bundle, given: AcceleratorSettings, threads: int) -> LoadedModel:
        model = LoadedModel.from_bundle(bundle, threads=threads, delegate=Delegate(given.library, given.options))
        proved(model, bundle)
        return LoadedModel(bundle.manifest, Accelerated(bundle, model.interpreter, self, threads))


class Accelerated:
    """An interpreter on the accelerator, and on the processor from the request on at which the accelerator failed."""

    def __init__(self, bundle: Bundle, interpreter: Interpreter, accelerator: Accelerator, threads: int) -> None:
        self._bundle = bundle
        self._now = interpreter
        self._accelerator: Accelerator | None = accelerator
        self._threads = threads

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What it takes."""
        return self._now.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What it answers with."""
        return self._now.outputs

    def invoke(self, inputs: Sequence[Array]) -> list[Array]:
        """Run one inference; one that fails on the accelerator is answered by the processor.

        Raises:
            ModelFailedError: it failed on the processor.
        """
        try:
            return self._now.invoke(inputs)
        except ModelFailedError as error:
            if self._accelerator is None:
                raise
            return self._fall_back(inputs, self._accelerator, error.message)

    def reset_state(self) -> None:
        """Set the model's state variables back to their start."""
        self._now.reset_state()

    def _fall_back(self, inputs: Sequence[Array], accelerator: Accelerator, cause: str) -> list[Array]:
        """Answer on the processor; what fails there too is not the accelerator's fault, and it is kept."""
        model = LoadedModel.from_bundle(self._bundle, threads=self._threads)
        proof = proved(model, self._bundle)
        model.interpreter.reset_state()
        outputs = model.interpreter.invoke(inputs)
        self._now = model.interpreter
        self._accelerator = None
        accelerator.lose(self._bundle, f"{cause}; {proof}")
        return outputs


def may_use(manifest: Manifest, given: AcceleratorSettings) -> bool:
    """Tell whether a model may run on an accelerator: its bundle names it, or the device's settings name the model."""
    named = manifest.runtime.accelerator
    return manifest.name in given.models or (named is not None and named.id == given.id)


def proved(model: LoadedModel, bundle: Bundle) -> str:
    """Prove a loaded model by its parity vectors, and say so.

    Raises:
        ModelFailedError: it does not answer as it should.
    """
    parity = check_parity(model, bundle, "production")
    if not parity.passed:
        raise ModelFailedError(
            f"the worst difference of the parity vectors is {parity.worst:g}, the tolerance is {parity.tolerance:g}",
            hint="look at the accelerator's library and driver",
        )
    return f"the processor answers, worst difference {parity.worst:g} of {parity.samples} parity vectors"
