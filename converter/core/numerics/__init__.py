# SPDX-License-Identifier: Apache-2.0
"""What quantizing computes: ranges, rounding, conditioning, pruning, error of layers."""
