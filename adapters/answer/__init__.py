"""One version in memory: from its files to its answers."""
