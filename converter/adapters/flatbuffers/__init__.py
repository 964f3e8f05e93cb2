# SPDX-License-Identifier: Apache-2.0
"""The model file: read, checked, changed and packed."""
