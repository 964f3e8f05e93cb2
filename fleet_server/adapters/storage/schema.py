# SPDX-License-Identifier: Apache-2.0
"""The tables. Times are Unix seconds; hashes are lowercase hexadecimal SHA-256.

The migrations create exactly these; a test compares the two.
"""

from sqlalchemy import (
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    Text,
)

metadata = MetaData()

api_token = Table(
    "api_token",
    metadata,
    Column("token_sha256", String(64), primary_key=True),
    Column("name", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("expires_at", Float),
)

audit = Table(
    "audit",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", Float, nullable=False),
    Column("actor", String(64), nullable=False),
    Column("action", String(64), nullable=False),
    Column("subject", String(255), nullable=False),
    Column("detail", Text, nullable=False),
    Column("previous_hash", String(64), nullable=False),
    Column("hash", String(64), nullable=False),
)

device = Table(
    "device",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("profile", String(63), nullable=False),
    Column("token_sha256", String(64)),
    Column("certificate_serial", String(64)),
    Column("facts", Text),
    Column("invited_at", Float, nullable=False),
    Column("enrolled_at", Float),
)

#: What came after the first tables: certificates that follow one another, the grace, the chain of instance tokens.
device_identity = Table(
    "device_identity",
    metadata,
    Column("device", String(63), ForeignKey("device.name"), primary_key=True),
    Column("certificate_ends_at", Float),
    Column("pending_serial", String(64)),
    Column("pending_certificate", Text),
    Column("pending_key_sha256", String(64)),
    Column("renewed_at", Float),
    Column("grace_until", Integer),
    Column("decommissioned_at", Float),
    Column("facts_at", Float),
    Column("instance_secret", String(64)),
    Column("instance_head", Integer, nullable=False),
    Column("instance_forsaken", Text, nullable=False),
    Column("instance_attempt", String(64), nullable=False),
    Column("cloned_at", Float),
    Column("cloned_detail", Text),
)

assignment = Table(
    "assignment",
    metadata,
    Column("device", String(63), ForeignKey("device.name"), nullable=False),
    Column("counter", Integer, nullable=False),
    Column("name", String(63)),
    Column("version", String(64)),
    Column("bundle_sha256", String(64)),
    Column("members", Text),
    Column("lift", Text),
    Column("rollout_id", String(160)),
    Column("purpose", String(16), nullable=False),
    Column("created_at", Float, nullable=False),
    PrimaryKeyConstraint("device", "counter"),
)

director = Table(
    "director",
    metadata,
    Column("device", String(63), ForeignKey("device.name"), primary_key=True),
    Column("version", Integer, nullable=False),
    Column("counter", Integer, nullable=False),
    Column("expires_at", Float, nullable=False),
    Column("signed_at", Float, nullable=False),
    Column("targets", LargeBinary),
    Column("snapshot", LargeBinary),
    Column("timestamp", LargeBinary),
    Column("grace_until", Integer),
)

release = Table(
    "release",
    metadata,
    Column("name", String(63), nullable=False),
    Column("version", String(64), nullable=False),
    Column("state", String(20), nullable=False),
    Column("policy", LargeBinary, nullable=False),
    Column("policy_sha256", String(64), nullable=False),
    Column("proposal", LargeBinary),
    Column("created_at", Float, nullable=False),
    Column("approved_at", Float),
    PrimaryKeyConstraint("name", "version"),
)

release_bundle = Table(
    "release_bundle",
    metadata,
    Column("name", String(63), nullable=False),
    Column("version", String(64), nullable=False),
    Column("profile", String(63), nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("size_bytes", Integer, nullable=False),
    Column("target_path", String(255), nullable=False),
    Column("needs", Text),
    PrimaryKeyConstraint("name", "version", "profile"),
)
Index("release_bundle_by_sha256", release_bundle.c.sha256)

image_metadata = Table(
    "image_metadata",
    metadata,
    Column("role", String(80), nullable=False),
    Column("version", Integer, nullable=False),
    Column("content", LargeBinary, nullable=False),
    PrimaryKeyConstraint("role", "version"),
)

repository_root = Table(
    "repository_root",
    metadata,
    Column("repository", String(16), nullable=False),
    Column("version", Integer, nullable=False),
    Column("content", LargeBinary, nullable=False),
    PrimaryKeyConstraint("repository", "version"),
)

rollout = Table(
    "rollout",
    metadata,
    Column("id", String(160), primary_key=True),
    Column("name", String(63), nullable=False),
    Column("version", String(64), nullable=False),
    Column("state", String(16), nullable=False),
    Column("wave", Integer, nullable=False),
    Column("wave_started_at", Float, nullable=False),
    Column("cause", String(64), nullable=False),
    Column("salt", String(64), nullable=False),
    Column("holdout", Text, nullable=False),
    Column("verdict", Text),
    Column("created_at", Float, nullable=False),
    Column("ended_at", Float),
)

rollout_device = Table(
    "rollout_device",
    metadata,
    Column("rollout_id", String(160), ForeignKey("rollout.id"), nullable=False),
    Column("device", String(63), nullable=False),
    Column("wave", Integer, nullable=False),
    Column("counter", Integer, nullable=False),
    Column("assigned_at", Float, nullable=False),
    Column("previous_name", String(63)),
    Column("previous_version", String(64)),
    Column("previous_sha256", String(64)),
    Column("revert_counter", Integer),
    PrimaryKeyConstraint("rollout_id", "device"),
)

message = Table(
    "message",
    metadata,
    Column("device", String(63), nullable=False),
    Column("epoch", String(16), nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("created_at", Float, nullable=False),
    Column("received_at", Float, nullable=False),
    Column("body", Text, nullable=False),
    PrimaryKeyConstraint("device", "epoch", "sequence"),
)

device_event = Table(
    "device_event",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("device", String(63), nullable=False),
    Column("received_at", Float, nullable=False),
    Column("created_at", Float, nullable=False),
    Column("kind", String(32), nullable=False),
    Column("cause", String(64), nullable=False),
    Column("detail", Text, nullable=False),
    Column("bundle_sha256", String(64)),
    Column("version", String(64)),
    Column("counter", Integer),
    Column("seconds", Float),
)
Index("device_event_by_device", device_event.c.device, device_event.c.kind)

outbox_mark = Table(
    "outbox_mark",
    metadata,
    Column("device", String(63), nullable=False),
    Column("epoch", String(16), nullable=False),
    Column("watermark", Integer, nullable=False),
    PrimaryKeyConstraint("device", "epoch"),
)

outbox_gap = Table(
    "outbox_gap",
    metadata,
    Column("device", String(63), nullable=False),
    Column("epoch", String(16), nullable=False),
    Column("first", Integer, nullable=False),
    Column("last", Integer, nullable=False),
    PrimaryKeyConstraint("device", "epoch", "first", "last"),
)

device_state = Table(
    "device_state",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("connected", Boolean, nullable=False),
    Column("status", String(20), nullable=False),
    Column("counter", Integer, nullable=False),
    Column("running_sha256", String(64)),
    Column("candidate_sha256", String(64)),
    Column("body", Text, nullable=False),
    Column("received_at", Float, nullable=False),
)

device_poll = Table(
    "device_poll",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("polled_at", Float, nullable=False),
)

model_figures = Table(
    "model_figures",
    metadata,
    Column("bundle_sha256", String(64), nullable=False),
    Column("device", String(63), nullable=False),
    Column("role", String(8), nullable=False),
    Column("bucket", Integer, nullable=False),
    Column("requests", Integer, nullable=False),
    Column("failed", Integer, nullable=False),
    Column("non_finite", Integer, nullable=False),
    Column("compared", Integer, nullable=False),
    Column("disagreed", Integer, nullable=False),
    Column("labelled", Integer, nullable=False),
    Column("correct", Integer, nullable=False),
    PrimaryKeyConstraint("device", "bucket", "bundle_sha256", "role"),
)
Index("model_figures_by_bucket", model_figures.c.bucket)

confusion = Table(
    "confusion",
    metadata,
    Column("bundle_sha256", String(64), nullable=False),
    Column("actual", Integer, nullable=False),
    Column("predicted", Integer, nullable=False),
    Column("count", Integer, nullable=False),
    PrimaryKeyConstraint("bundle_sha256", "actual", "predicted"),
)

version_counter = Table(
    "version_counter",
    metadata,
    Column("what", String(64), primary_key=True),
    Column("value", Integer, nullable=False),
)

ingestion_count = Table(
    "ingestion_count",
    metadata,
    Column("what", String(32), primary_key=True),
    Column("count", Integer, nullable=False),
)
