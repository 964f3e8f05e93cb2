# SPDX-License-Identifier: Apache-2.0
"""A server that offers mutated metadata and bundles to a real agent, and counts what the agent makes of each."""
