# SPDX-License-Identifier: Apache-2.0
"""What the machine and its software are, and how they fare."""
