# SPDX-License-Identifier: Apache-2.0
"""The agent's hands: files, databases, sockets, processes. Exceptions of libraries are mapped here."""
