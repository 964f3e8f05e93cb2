# SPDX-License-Identifier: Apache-2.0
"""What outlives a power cut: the record, slots, outbox, holds and captures."""
