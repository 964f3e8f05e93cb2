# SPDX-License-Identifier: Apache-2.0
"""Sample sets: folders of pictures, arrays, tables, recordings and generators, read one sample at a time."""
