# SPDX-License-Identifier: Apache-2.0
"""The search within budgets: candidates, sensitivity, the Pareto front."""
