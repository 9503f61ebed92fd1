"""The steps of a fit, one module each; `adapters.training` tells the whole."""
