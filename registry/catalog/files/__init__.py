"""The flavor `files` in MLflow: a snapshot as a logged model, whose artifacts are its files."""
