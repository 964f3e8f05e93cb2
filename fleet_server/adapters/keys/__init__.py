# SPDX-License-Identifier: Apache-2.0
"""Keys and certificates: where they lie, how a server gets its first, and the process that signs."""
