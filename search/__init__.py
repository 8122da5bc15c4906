"""The science of Limbeck: distillation search as a library (`python -m search`).

This package imports nothing by itself, so that the API and the client can use `search.spec` without torch.
"""
