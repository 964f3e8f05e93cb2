# SPDX-License-Identifier: Apache-2.0
"""Decisions only: no I/O, no clock, no randomness; these come in as arguments."""
