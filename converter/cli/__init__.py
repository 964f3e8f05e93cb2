# SPDX-License-Identifier: Apache-2.0
"""The verbs that the converter hangs on the front door."""
