"""Kinds of data sets, one per file; each registers a reader under its kind's name.

`search.data` is the only caller. A new kind is one new file here.
"""

from search.datasets.contents import Contents, Entry, Labelled, Part, kinds, reader_of
from search.registry import import_siblings

import_siblings(__name__, list(__path__))

__all__ = ["Contents", "Entry", "Labelled", "Part", "kinds", "reader_of"]
