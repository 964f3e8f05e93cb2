# SPDX-License-Identifier: Apache-2.0
"""The version of the whole distribution."""

#: Written here so that a device need not read package metadata to know it.
__version__ = "0.1.0"
