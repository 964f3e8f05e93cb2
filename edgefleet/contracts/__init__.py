# SPDX-License-Identifier: Apache-2.0
"""What two rooms say to each other: typed, frozen, versioned. Imports msgspec, rfc8785 and the standard library."""
