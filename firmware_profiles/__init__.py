# SPDX-License-Identifier: Apache-2.0
"""The facts about boards: one TOML file a board, and what reads and checks it."""

from firmware_profiles.loader import list_profiles, load_profile, read_profile

__all__ = ["list_profiles", "load_profile", "read_profile"]
