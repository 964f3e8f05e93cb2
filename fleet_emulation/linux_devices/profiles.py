# SPDX-License-Identifier: Apache-2.0
"""Which profiles are of Linux devices that can be emulated, and how QEMU names their CPUs."""

from edgefleet.contracts.errors import InputError
from edgefleet.contracts.profile import Profile
from firmware_profiles.loader import load_profile


def linux_profile(profile: str | Profile) -> Profile:
    """Return a profile of an arm64 Linux device, by its id, file or itself.

    Raises:
        InputError: it is of another kind, or there is none.
    """
    facts = load_profile(profile) if isinstance(profile, str) else profile
    if facts.cpu.architecture != "aarch64":
        raise InputError(
            f"the profile '{facts.id}' is of no arm64 Linux device: its CPU is {facts.cpu.architecture}",
            hint="name a profile such as raspberry-pi-4",
        )
    if facts.emulator is None:
        raise InputError(
            f"the profile '{facts.id}' names no emulator, so nothing stands in for its {facts.cpu.core}",
            hint="name a profile with a table [emulator], such as raspberry-pi-4",
        )
    return facts


def cpu_of(profile: Profile) -> str:
    """Return the CPU as QEMU names it."""
    named = profile.emulator.cpu if profile.emulator is not None else None
    return named or profile.cpu.core
