# SPDX-License-Identifier: Apache-2.0
"""What the server says, fetched within bounds and verified before anything believes it."""
