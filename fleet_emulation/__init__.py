# SPDX-License-Identifier: Apache-2.0
"""Fleets without hardware: a broker, real and simulated devices, attacks, and the demo that puts them together."""
