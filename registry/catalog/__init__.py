"""MLflow as the catalog that people look at; the only package that imports mlflow."""
