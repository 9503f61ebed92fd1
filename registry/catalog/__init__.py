"""MLflow as the catalog of versions. Beside `deployments`, the only package that imports mlflow."""
