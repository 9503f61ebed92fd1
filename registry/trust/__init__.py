"""Which versions may be used: signatures, trusted keys, the oldest allowed version."""
