# SPDX-License-Identifier: Apache-2.0
"""What runs inside an emulated device, in its own Python: the standard library only, and nothing of EdgeFleet's."""
