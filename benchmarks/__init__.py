"""Two kinds of measurements.

Of a version (`accuracy routing ood latency memory`): run by `ulora measure`, `python -m benchmarks NAME` or
`mlflow run`; each takes (model, data, *, seed, progress) and returns a `registry.evidence.results.Measurement`, which
is kept as evidence that gates look at.

Of this package (`python -m benchmarks.mixed` and its like, see docs/benchmarks.md): ratios against a rival in the same
run, with `met` for each budget.
"""
