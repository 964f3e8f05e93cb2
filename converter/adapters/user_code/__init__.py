# SPDX-License-Identifier: Apache-2.0
"""The user's own functions: metrics and generators of samples."""
