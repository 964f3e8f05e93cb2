# SPDX-License-Identifier: Apache-2.0
"""Models run over samples: answers, activations, histograms and times."""
