# SPDX-License-Identifier: Apache-2.0
"""The processes that the supervisor starts, and what bounds them."""
