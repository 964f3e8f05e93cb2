# SPDX-License-Identifier: Apache-2.0
"""Decisions of the converter: pure functions, no files, clock, randomness or interpreter."""
