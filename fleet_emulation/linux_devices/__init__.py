# SPDX-License-Identifier: Apache-2.0
"""Linux-class devices without hardware: arm64 in QEMU, from Debian's packages, with the real agent inside.

``user_mode`` runs arm64 programs as processes of this machine; ``device`` boots whole machines, from a snapshot.
"""
