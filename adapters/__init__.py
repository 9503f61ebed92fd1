"""The torch side of ulora-registry: what a version contains and how it predicts.

PyPI has another package that is imported as `adapters`; `DISTRIBUTION` is how ours is told from it.
"""

DISTRIBUTION = "ulora-registry"
