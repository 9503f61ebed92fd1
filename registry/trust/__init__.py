"""Which versions may be used here: signatures, and who is trusted."""
