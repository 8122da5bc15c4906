"""Alembic migrations of the store. They run from an installed package: see `service.store.schema.migrate`."""
