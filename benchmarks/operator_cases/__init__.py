# SPDX-License-Identifier: Apache-2.0
"""Random models of one operator, the oracles' answers to them, and the C kernels' on this machine."""
