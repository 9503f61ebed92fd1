"""What MLflow loads of this package: the deployment target `ulora`, artifacts at `ulora://…`, and the tags of runs.

MLflow imports `artifact_repository` and `run_context` wherever it is itself imported, so these two import next to
nothing else, and never fail.
"""
