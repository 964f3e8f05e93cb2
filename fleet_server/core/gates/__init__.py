# SPDX-License-Identifier: Apache-2.0
"""Statistics of the gate: what a fleet's evidence proves, however often one looks."""
