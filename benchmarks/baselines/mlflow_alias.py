"""A server that polls an MLflow alias and loads what it names: `python -m benchmarks.baselines.mlflow_alias MODEL`.

This is how teams follow a registry without this package: once a second the alias is resolved; if it names another
version, that is loaded by `mlflow.pyfunc.load_model`, and then answers. `GET /version` says which one does.
"""

from __future__ import annotations

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import click

_POLL_SECONDS = 1.0


class AliasFollower:
    """The version that an alias names, as a loaded model."""

    def __init__(self, model: str, alias: str) -> None:
        from mlflow import MlflowClient

        self._name, self._alias, self._client = model, alias, MlflowClient()
        self.number, self._model = "", None
        self.look()

    def look(self) -> None:
        """Load what the alias names, if it is another version."""
        import mlflow

        number = str(self._client.get_model_version_by_alias(self._name, self._alias).version)
        if number != self.number:
            self._model = mlflow.pyfunc.load_model(f"models:/{self._name}/{number}")
            self.number = number

    def follow(self) -> None:
        """Look for ever."""
        while True:
            time.sleep(_POLL_SECONDS)
            self.look()


@click.command()
@click.argument("model")
@click.option("--alias", default="production")
@click.option("--port", type=int, required=True)
def main(model: str, alias: str, port: int) -> None:
    """Follow an alias."""
    follower = AliasFollower(model, alias)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = follower.number.encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    threading.Thread(target=follower.follow, daemon=True).start()
    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


if __name__ == "__main__":
    main()
