# SPDX-License-Identifier: Apache-2.0
"""What the pytest fixture ``edgefleet`` hands out: boards, devices, fleets, baselines, faults."""
