# SPDX-License-Identifier: Apache-2.0
"""The outside world: database, keys, certificates, broker, HTTP client."""
