"""Fit a version from images; `adapters.fitting.training` tells the whole, the other modules hold its steps."""
