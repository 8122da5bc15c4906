"""The service: HTTP API, web page and the store. This package imports nothing by itself."""
