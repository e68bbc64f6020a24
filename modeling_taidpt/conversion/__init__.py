"""Published weight files to models of this package."""
