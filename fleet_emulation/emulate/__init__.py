# SPDX-License-Identifier: Apache-2.0
"""``edgefleet emulate``: models on boards that nobody needs to own."""
