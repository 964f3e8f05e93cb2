# SPDX-License-Identifier: Apache-2.0
"""The verbs of ``edgefleet emulate``: options in, text or JSON out."""
