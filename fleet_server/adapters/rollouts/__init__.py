# SPDX-License-Identifier: Apache-2.0
"""Rollouts in the database, and the thread that steps them."""
