# SPDX-License-Identifier: Apache-2.0
"""The profiles that came with this installation, for what a bundle's board has to have."""

from functools import lru_cache

from edgefleet.contracts.errors import EdgeFleetError
from edgefleet.contracts.names import is_name
from edgefleet.contracts.profile import Profile
from firmware_profiles.loader import load_profile


@lru_cache(maxsize=256)
def installed_profile(profile_id: str) -> Profile | None:
    """Return a profile by its id; None for a board of the user's own, whose file is not here."""
    if not is_name(profile_id):
        return None
    try:
        return load_profile(profile_id)
    except EdgeFleetError:
        return None
