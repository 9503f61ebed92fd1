"""Two kinds of measurements.

Of a version (`accuracy routing ood latency memory`, run by `ulora measure`, `python -m benchmarks NAME` or `mlflow run`):
what comes out is kept as evidence, and gates look at it. Of this package (`python -m benchmarks.mixed` and its like, see
docs/benchmarks.md): ratios against a rival in the same run, with `met` for each budget.
"""
