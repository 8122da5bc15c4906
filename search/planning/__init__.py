"""The plan's parts: which trials a job needs, what they cost, what they found, who wins. Imports no torch."""
