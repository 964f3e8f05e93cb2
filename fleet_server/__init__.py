# SPDX-License-Identifier: Apache-2.0
"""Bundle in; signed metadata, rollouts, gates, telemetry, an API and a page out."""
