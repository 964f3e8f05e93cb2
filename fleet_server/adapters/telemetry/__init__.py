# SPDX-License-Identifier: Apache-2.0
"""What devices send: taken in from the broker, stored exactly once."""
