# SPDX-License-Identifier: Apache-2.0
"""Model in, bundle out: import, calibrate, quantize, check, pack."""
