# SPDX-License-Identifier: Apache-2.0
"""The front door: one ``edgefleet`` command whose verbs the rooms hang on it."""
