# SPDX-License-Identifier: Apache-2.0
"""An emulated Linux device that runs a model as a member of a fleet."""

from typing import TYPE_CHECKING

from fleet_emulation.testing.result import Array

if TYPE_CHECKING:
    from fleet_emulation.linux_devices.device import LinuxDevice


class LinuxModel:
    """A device, and the model that it answers with: LiteRT's reference kernels, as bit for bit as the boards."""

    def __init__(self, device: "LinuxDevice", model: bytes) -> None:
        self.device = device
        self._model = model

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return self.device.name

    @property
    def on(self) -> bool:
        """Tell whether it runs."""
        return self.device.on

    @property
    def pid(self) -> int:
        """The process id of its QEMU."""
        return self.device.pid

    def start(self) -> None:
        """Switch it on."""
        self.device.start()

    def cut_power(self) -> None:
        """End it at once."""
        self.device.cut_power()

    def infer(self, sample: Array) -> Array:
        """Return the raw answer to one sample, of the model's first output without its first axis.

        Raises:
            ModelFailedError: the model does not run there.
            UnreachableError: it does not answer, or is off.
        """
        from fleet_emulation.linux_devices.inference import infer_on

        outputs = infer_on(self.device, self._model, [sample[None, None]], kernels="reference")
        answer: Array = outputs[0][0, 0]
        return answer
