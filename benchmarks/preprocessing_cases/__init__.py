# SPDX-License-Identifier: Apache-2.0
"""Preprocessing as C, compiled for this machine and for emulated boards, to be compared with the reference."""
