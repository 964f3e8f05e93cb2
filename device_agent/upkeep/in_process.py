# SPDX-License-Identifier: Apache-2.0
"""One round of upkeep, in whatever process asks."""

from collections.abc import Callable
from datetime import UTC, datetime

from device_agent.adapters.identity.check_in import check_in
from device_agent.adapters.identity.data_folder import DataFolder
from device_agent.adapters.identity.renewal import make_up, read_life, renew
from device_agent.adapters.verification.trust_memory_file import known_time
from device_agent.core.identity import Identity
from device_agent.core.orders.clock_judgement import believed
from device_agent.core.orders.renewal import CertificateLife
from device_agent.core.upkeep import Note, UpkeepResult
from device_agent.errors import RenewalRefusedError
from edgefleet.contracts.errors import EdgeFleetError, UnreachableError


class InProcessUpkeep:
    """The port ``Upkeep`` without a process of its own; ``clock`` returns Unix seconds."""

    def __init__(self, folder: DataFolder, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._clock = clock

    def round(self) -> UpkeepResult:
        """Renew the certificate if that is due, and check in.

        Raises:
            EdgeFleetError: identity or certificate cannot be used at all.
        """
        folder, identity = self._folder, self._folder.read_identity()
        make_up(folder)
        life = read_life(folder)
        notes, soon = self._renewal(identity, life)
        if self._stage(read_life(folder)) == "lapsed":
            return UpkeepResult(notes=notes, soon=soon)
        try:
            notes += check_in(folder, identity)
        except UnreachableError:
            soon = True
        return UpkeepResult(notes=notes, soon=soon)

    def _stage(self, life: CertificateLife) -> str:
        return life.stage(believed(self._clock(), known_time(self._folder.trust)))

    def _renewal(self, identity: Identity, life: CertificateLife) -> tuple[tuple[Note, ...], bool]:
        """Renew if it is time; return what is to be told, and whether to come back soon."""
        stage = self._stage(life)
        if stage in ("fresh", "clock-behind"):
            return (), False
        try:
            renewed = renew(self._folder, identity, lapsed=stage == "lapsed")
        except EdgeFleetError as error:
            cause = error.cause if isinstance(error, RenewalRefusedError) else error.code
            told = isinstance(error, RenewalRefusedError) or stage != "due"
            detail = f"the certificate holds until {_day(life.ends_at)}; {error.message}"
            return (Note(kind="certificate-lapsing", cause=cause, detail=detail),) if told else (), True
        cause = "within-grace" if stage == "lapsed" else "due"
        return (Note(kind="certificate-renewed", cause=cause, detail=f"it holds until {_day(renewed.ends_at)}"),), False


def _day(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M}"
