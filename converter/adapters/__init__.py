# SPDX-License-Identifier: Apache-2.0
"""What touches files, the quantizer, the interpreter and other processes; foreign errors are mapped here."""
