# SPDX-License-Identifier: Apache-2.0
"""EdgeFleet: what its rooms share."""

#: Of the whole distribution; written here so that a device need not read package metadata to know it.
__version__ = "0.1.0"
