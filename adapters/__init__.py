"""The torch side of ulora-registry: what a version contains and how it predicts.

PyPI has another package that is imported as `adapters`; `DISTRIBUTION` tells this one from it.
"""

DISTRIBUTION = "ulora-registry"
