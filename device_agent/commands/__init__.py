# SPDX-License-Identifier: Apache-2.0
"""The verbs of ``edgefleet-agent``, one module each: ``add(verbs)`` hangs a verb on the command line."""
