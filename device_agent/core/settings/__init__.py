# SPDX-License-Identifier: Apache-2.0
"""What may be set for a device, by its owner and by the fleet's."""
