# SPDX-License-Identifier: Apache-2.0
"""The process that looks after the device's identity now and then: its certificate, its board, its check-in."""
