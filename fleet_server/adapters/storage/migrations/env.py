# SPDX-License-Identifier: Apache-2.0
"""Alembic's entry: migrate on the connection that the server hands over, inside its transaction."""

from alembic import context

from fleet_server.adapters.storage.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
with context.begin_transaction():
    context.run_migrations()
