"""Measurements: one function per entry point, used by `mlflow run` and by `ulora measure`.

Each takes (model, data, *, seed, progress) and returns a `registry.evidence.results.Measurement`.
"""
