# SPDX-License-Identifier: Apache-2.0
"""What a user may set for one device, in a TOML file; unknown keys are refused by name."""

from pathlib import Path
from typing import Annotated

import msgspec

from edgefleet.contracts.decoding import decode_toml
from edgefleet.contracts.enrolment import BrokerAddress
from edgefleet.contracts.errors import FileMissingError
from edgefleet.contracts.manifest import Fact, Natural, Positive, Share

Period = Annotated[float, msgspec.Meta(gt=0.0)]


class AgentSettings(Fact, frozen=True, kw_only=True):
    """All settings; periods in seconds, divided by ``--time-scale`` like the policy's durations.

    ``broker`` replaces the one that enrolment named. ``factory_model`` is a bundle that answers in safe mode.
    ``socket`` replaces ``DATA/inference.sock``. ``compare_share`` is the share of live inputs that both models see
    during shadow and trial. ``reserve_bytes`` of the disk are kept free. ``threads`` is the interpreter's.
    """

    poll_s: Period = 300.0
    telemetry_s: Period = 60.0
    broker: BrokerAddress | None = None
    factory_model: str | None = None
    socket: str | None = None
    compare_share: Share = 0.5
    outbox_bytes: Positive = 8 << 20
    reserve_bytes: Natural = 4 << 20
    admission_deadline_s: Period = 120.0
    watchdog_s: Period = 20.0
    threads: Positive = 1


def read_settings(path: Path | None) -> AgentSettings:
    """Read the settings file, or return the defaults.

    Raises:
        FileMissingError: there is no such file.
        SettingError: it is not TOML, or a key or value is wrong.
    """
    if path is None:
        return AgentSettings()
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FileMissingError(
            f"cannot read the settings '{path}': {error.strerror or error}", hint="check the path given to --config"
        ) from error
    return decode_toml(data, AgentSettings, source=str(path))
