# SPDX-License-Identifier: Apache-2.0
"""The server room's verbs of the 'edgefleet' command."""
