# SPDX-License-Identifier: Apache-2.0
"""Generated C: an int8 flatbuffer in, a model blob and portable C out."""
