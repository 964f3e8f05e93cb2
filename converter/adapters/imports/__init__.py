# SPDX-License-Identifier: Apache-2.0
"""From what people train to a LiteRT file: each framework runs in a process of its own."""
