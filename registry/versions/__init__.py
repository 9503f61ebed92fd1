"""Versions: manifest, weights, bundle on disk, binding of the name, backbones, composing and importing."""
