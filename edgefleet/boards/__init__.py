# SPDX-License-Identifier: Apache-2.0
"""A compiler and a board, from a profile: build an image, boot it, count, measure."""
