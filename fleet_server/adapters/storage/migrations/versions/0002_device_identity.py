# SPDX-License-Identifier: Apache-2.0
"""What the server knows of a device's identity beyond its first certificate, and what a bundle needs of a board."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make the table; devices that are known already get their row when it is first needed."""
    op.create_table(
        "device_identity",
        sa.Column("device", sa.String(length=63), nullable=False),
        sa.Column("certificate_ends_at", sa.Float(), nullable=True),
        sa.Column("pending_serial", sa.String(length=64), nullable=True),
        sa.Column("pending_certificate", sa.Text(), nullable=True),
        sa.Column("pending_key_sha256", sa.String(length=64), nullable=True),
        sa.Column("renewed_at", sa.Float(), nullable=True),
        sa.Column("grace_until", sa.Integer(), nullable=True),
        sa.Column("decommissioned_at", sa.Float(), nullable=True),
        sa.Column("facts_at", sa.Float(), nullable=True),
        sa.Column("instance_secret", sa.String(length=64), nullable=True),
        sa.Column("instance_head", sa.Integer(), nullable=False),
        sa.Column("instance_forsaken", sa.Text(), nullable=False),
        sa.Column("instance_attempt", sa.String(length=64), nullable=False),
        sa.Column("cloned_at", sa.Float(), nullable=True),
        sa.Column("cloned_detail", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(["device"], ["device.name"]),
        sa.PrimaryKeyConstraint("device"),
    )
    op.add_column("release_bundle", sa.Column("needs", sa.Text(), nullable=True))
    op.add_column("director", sa.Column("grace_until", sa.Integer(), nullable=True))
