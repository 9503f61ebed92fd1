"""An S3 server and an MLflow server on one machine, and the demo on them."""
