"""The store: tables, sessions and one named function per query. With `migrations` the only SQLAlchemy.

One file per noun: `jobs` and `queue` (the workers' side of jobs), `trials`, `reports`, `events`, `artifacts`,
`recipes`, `workers`, `keys`, `idempotency`.
Every function takes the session first; reads work in `Store.session()`, changes need `Store.begin_write()`.
What a running job's driver writes carries its `Lease`, and raises `LeaseLost` when the lease is gone.
"""
