# SPDX-License-Identifier: Apache-2.0
"""An order names all that a device is to run: one release of each product."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; an order from before has none, and its own release is all of it."""
    op.add_column("assignment", sa.Column("members", sa.Text(), nullable=True))
