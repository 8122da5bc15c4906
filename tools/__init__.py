"""What the Makefile calls beside the installed tools; not part of the installed package."""
