# SPDX-License-Identifier: Apache-2.0
"""Devices: their identities and certificates, their orders, what the director says to each."""
