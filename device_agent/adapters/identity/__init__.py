# SPDX-License-Identifier: Apache-2.0
"""Who this device is: its data folder's certificate and key, enrolment, renewal, and secrets that never leave."""
