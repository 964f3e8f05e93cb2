# SPDX-License-Identifier: Apache-2.0
"""How a release spreads, and what stops it."""
