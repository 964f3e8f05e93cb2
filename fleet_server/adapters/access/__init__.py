# SPDX-License-Identifier: Apache-2.0
"""People and programs that use the server: tokens, the client, the audit log, addresses."""
