# SPDX-License-Identifier: Apache-2.0
"""What the generator decides: which kernels a model calls, with which numbers, and where its tensors lie."""
