# SPDX-License-Identifier: Apache-2.0
"""What people and tools read of a conversion: card, drawings, confusion, bill of materials, provenance."""
