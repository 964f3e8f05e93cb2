# SPDX-License-Identifier: Apache-2.0
"""An order may lift a device's quarantine of some bundles."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the column; an order from before lifts nothing."""
    op.add_column("assignment", sa.Column("lift", sa.Text(), nullable=True))
