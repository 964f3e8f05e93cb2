# SPDX-License-Identifier: Apache-2.0
"""What verified orders say, how long they stand, and what to do about them."""
