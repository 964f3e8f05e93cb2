# SPDX-License-Identifier: Apache-2.0
"""The life of a device's models: its transitions, its record, its trials and its ways back."""
