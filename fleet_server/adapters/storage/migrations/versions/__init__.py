# SPDX-License-Identifier: Apache-2.0
"""The database's history, as Alembic migrations."""
