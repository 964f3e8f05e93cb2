# SPDX-License-Identifier: Apache-2.0
"""What goes beside a bundle, signed: provenance, bill of materials, model signature."""
