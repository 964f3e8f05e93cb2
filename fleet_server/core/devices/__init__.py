# SPDX-License-Identifier: Apache-2.0
"""What is decided of one device."""
