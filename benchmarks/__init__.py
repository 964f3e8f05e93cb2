# SPDX-License-Identifier: Apache-2.0
"""Benchmarks: each prints a ratio against a named baseline run in the same call, and writes JSON to results/."""
