"""Measurements: one function per entry point, used by `mlflow run` and by `ulora measure`."""
