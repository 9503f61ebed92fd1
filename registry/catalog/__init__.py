"""MLflow as the catalog of versions. The only package that imports mlflow."""
