"""Fit a version from images: `adapters.fitting.fit` does the whole, the other modules are its steps."""
