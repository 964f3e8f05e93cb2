# SPDX-License-Identifier: Apache-2.0
"""The management API's routes, by what they are about."""
