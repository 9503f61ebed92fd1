"""Two kinds of benchmarks.

Of a version (`accuracy routing ood latency memory depth`): run by `ulora measure`, `python -m benchmarks NAME` or
`mlflow run`; `compare` puts two versions beside each other. Each takes (model, data, *, seed, progress) and returns a
`registry.evidence.results.Measurement`, which is stored as evidence for gates.

Of this package (`python -m benchmarks.mixed` and others, see docs/benchmarks.md): ratios against a baseline in the same
run, with `met` for each budget. `python -m benchmarks NAME` shows some of them in MLflow.
"""
