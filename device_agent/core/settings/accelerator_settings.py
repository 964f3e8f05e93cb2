# SPDX-License-Identifier: Apache-2.0
"""What a user says of a board's accelerator; the worker gets it as it stands in the settings."""

from typing import Annotated

import msgspec
from msgspec import Meta

from edgefleet.contracts.manifest import Fact
from edgefleet.contracts.names import Name

_Text = Annotated[str, Meta(min_length=1, max_length=4096)]


class AcceleratorSettings(Fact, frozen=True, kw_only=True):
    """What accelerator this board has, and which models may run on it."""

    id: Annotated[Name, Meta(description="Its name, as bundles name it in `runtime.accelerator.id`")]
    library: Annotated[_Text, Meta(description="The shared library of its external delegate, as an absolute path")]
    options: Annotated[dict[str, str], Meta(max_length=64, description="The delegate's options, as it names them")] = (
        msgspec.field(default_factory=dict)
    )
    devices: Annotated[
        tuple[_Text, ...], Meta(max_length=64, description="Device nodes and folders that the worker may open for it")
    ] = ()
    models: Annotated[
        tuple[Name, ...],
        Meta(max_length=64, description="Models that may run on it although their bundles do not name it"),
    ] = ()
