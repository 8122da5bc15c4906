"""What can go wrong in the store.

StoreError
├── LeaseLost                  the writer no longer holds the job
├── StateConflict              a final state would have been overwritten
├── StoreUnavailable           the database cannot be reached now, or is too busy: try again
└── SchemaError
    ├── SchemaMissing          the database has not been migrated
    ├── SchemaTooOld           the database needs `migrate`
    └── SchemaTooNew           the database was migrated by a newer Limbeck
"""
# ruff: noqa: N818  (the names say what happened)

from __future__ import annotations


class StoreError(Exception):
    """Base of the store's own errors."""


class LeaseLost(StoreError):
    """The writer no longer holds the job: it must stop at once and write nothing more."""


class StateConflict(StoreError):
    """The row is in a final state, which is never overwritten."""


class StoreUnavailable(StoreError):
    """The database cannot be reached now, or is too busy: try again. What failed may have been done."""


class SchemaError(StoreError):
    """The database's schema is not the one this version of Limbeck works with."""


class SchemaMissing(SchemaError):
    """The database holds no Limbeck tables yet."""


class SchemaTooOld(SchemaError):
    """The database was made by an older Limbeck and must be migrated."""


class SchemaTooNew(SchemaError):
    """The database was migrated by a newer Limbeck; this one must not touch it."""
