# SPDX-License-Identifier: Apache-2.0
"""What is counted of models at work, and what follows from it: pure figures."""
