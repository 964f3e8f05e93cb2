# SPDX-License-Identifier: Apache-2.0
"""Running a model the same way in the converter and on the device: interpreters, preprocessing, metrics."""
