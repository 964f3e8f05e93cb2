# SPDX-License-Identifier: Apache-2.0
"""Many boards and Linux devices at once, of mixed profiles, that all run one model."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import TYPE_CHECKING

from edgefleet.contracts.errors import InputError
from firmware_profiles.loader import load_profile
from fleet_emulation.testing.answering import AnsweringBoard
from fleet_emulation.testing.linux_model import LinuxModel
from fleet_emulation.testing.result import Array
from fleet_emulation.testing.workshop import BoardOptions, Model, Workshop

if TYPE_CHECKING:
    from fleet_emulation.linux_devices.device import LinuxDevice

Member = AnsweringBoard | LinuxModel
_LINUX = "aarch64"
#: Answers are waited for side by side; the devices themselves are processes of their own.
_WAITING_AT_ONCE = 16


def shares(count: int, mix: Mapping[str, float] | Sequence[str]) -> dict[str, int]:
    """Return how many of ``count`` devices are of each profile, by largest remainder; earlier ones win ties.

    Raises:
        InputError: the mix names nothing, or a part is negative.
    """
    parts = dict(mix) if isinstance(mix, Mapping) else dict.fromkeys(mix, 1.0)
    whole = sum(parts.values())
    if count < 1 or not whole > 0 or any(part < 0 for part in parts.values()):
        raise InputError(
            f"a fleet of {count} devices cannot be made of {parts or 'no profiles'}",
            hint="name at least one device, and how many or what share are of each profile",
        )
    exact = {profile: count * part / whole for profile, part in parts.items()}
    found = {profile: int(value) for profile, value in exact.items()}
    by_remainder = sorted(exact, key=lambda profile: found[profile] - exact[profile])
    for profile in by_remainder[: count - sum(found.values())]:
        found[profile] += 1
    return {profile: number for profile, number in found.items() if number}


class Fleet:
    """A fleet; it starts when it is first used, and ends with the test. See :meth:`EdgeFleet.fleet`."""

    def __init__(
        self,
        workshop: Workshop,
        numbers: Mapping[str, int],
        *,
        model: Model,
        options: BoardOptions,
        linux_device: Callable[[str], "LinuxDevice"],
    ) -> None:
        self._workshop = workshop
        self._numbers = numbers
        self._model = model
        self._options = options
        self._linux_device = linux_device
        self._boards: list[AnsweringBoard] = []
        self._linux: list[LinuxModel] = []
        self._started = False

    @property
    def boards(self) -> Sequence[AnsweringBoard]:
        """The microcontroller boards, in the order of the mix."""
        self.start()
        return self._boards

    @property
    def linux_devices(self) -> "Sequence[LinuxDevice]":
        """The Linux devices, in the order of the mix."""
        self.start()
        return [member.device for member in self._linux]

    @property
    def members(self) -> Sequence[Member]:
        """All of them: boards, then Linux devices."""
        self.start()
        return self._all

    @property
    def _all(self) -> list[Member]:
        return [*self._boards, *self._linux]

    @property
    def pids(self) -> list[int]:
        """The process ids of those that are on."""
        return [member.pid for member in self._all if member.on]

    def start(self) -> None:
        """Build what is not built, and switch everything on; boards get ready while Linux devices start.

        Raises:
            EdgeFleetError: something cannot be built or does not come up; then nothing is left running.
        """
        if self._started:
            return
        self._started = True
        try:
            self._start()
        except BaseException:  # whatever it was, no process may be left behind
            self.close()
            raise

    def infer(self, sample: Array) -> list[Array]:
        """Let every member answer one sample, all at once, and return the raw answers in the order of ``members``.

        Raises:
            UnreachableError: one does not answer, or is off.
        """
        members = self.members
        with ThreadPoolExecutor(_WAITING_AT_ONCE) as pool:
            return list(pool.map(_answer, members, repeat(sample)))

    def close(self) -> None:
        """Cut every member's power, and wait until it is gone."""
        for member in self._all:
            member.cut_power()

    def _start(self) -> None:
        linux = []
        for name, number in self._numbers.items():
            profile = load_profile(name)
            if profile.cpu.architecture == _LINUX:
                linux += [name] * number
                continue
            firmware = self._workshop.answering(profile, self._model, self._options)
            self._boards += [AnsweringBoard(profile, firmware, number=place + 1) for place in range(number)]
        # A board ends with the thread that started it, so that is this one.
        for board in self._boards:
            board.start()
        self._linux = [LinuxModel(self._linux_device(name), self._model.data) for name in linux]
        for board in self._boards:
            board.wait_until_up()


def _answer(member: Member, sample: Array) -> Array:
    return member.infer(sample)
