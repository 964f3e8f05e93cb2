# SPDX-License-Identifier: Apache-2.0
"""``edgefleet demo``: the whole loop on loopback, four failures, and who catches each of them."""
