"""The installed version."""

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("limbeck")
except PackageNotFoundError:
    # Run from a source tree that was never installed.
    VERSION = "0"
