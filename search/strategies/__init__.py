"""Strategies: which discrete choices to try next. One per file, registered by name; the contract is
`search.dimensions.Strategy`. Imports no torch."""

from search.registry import import_siblings

import_siblings(__name__, list(__path__))
