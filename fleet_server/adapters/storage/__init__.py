# SPDX-License-Identifier: Apache-2.0
"""What the server keeps: its folder, its database, files that are written whole or not at all."""
