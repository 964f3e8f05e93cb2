# SPDX-License-Identifier: Apache-2.0
"""The inference worker: models, live answers and their counts. The only part of the agent that loads numpy."""
