"""The frozen backbones: families, weights from the hub or the store, preprocessing."""
