# SPDX-License-Identifier: Apache-2.0
"""HTTPS, MQTT and proxies."""
