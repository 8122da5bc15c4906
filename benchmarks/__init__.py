"""Benchmarks: `python -m benchmarks.NAME [--data DIR] [--device cpu|cuda] [--json FILE]`."""
