# SPDX-License-Identifier: Apache-2.0
"""The agent's decisions, pure: no I/O, no clock, no randomness; these come in as arguments."""
