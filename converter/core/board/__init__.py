# SPDX-License-Identifier: Apache-2.0
"""What a board can run and what a model costs there: operators and releases, rules, arena, flash, time."""
