"""The embedded stack for `ulora dev`, the demo and the tests: a real S3 server and a real MLflow server on loopback."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Self

from registry.devstack.mlflow_server import MlflowServer
from registry.devstack.s3_server import S3Server


class Stack:
    """Both servers, started side by side, with their data below one folder. A context manager; leaving it stops both.

    Keys and ports are new each time that the stack is made; the data of an earlier one in the same folder is kept.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.s3 = S3Server(self.folder / "s3")
        self.mlflow = MlflowServer(self.folder / "mlflow")

    @property
    def env(self) -> dict[str, str]:
        """The exports that make `ulora`, MLflow and boto3 use this stack, once it is started."""
        return self.s3.env | self.mlflow.env | {"ULORA_STORE": f"s3://{self.s3.bucket}/ulora"}

    def start(self) -> Self:
        """Start both servers and return when both answer. If one does not come up, neither is left running.

        Raises:
            StoreUnreachable, CatalogUnreachable: a server did not come up.
            NotNow: another stack uses the folder.
            BadSetting: the folder can't be made or written.
        """
        with ExitStack() as undo:
            undo.callback(self.stop)
            # Before anything waits: MLflow takes seconds.
            self.mlflow.launch()
            self.s3.launch()
            self.s3.wait_ready()
            self.mlflow.wait_ready()
            undo.pop_all()
        return self

    def stop(self) -> None:
        """Stop both servers and return when they are gone."""
        with ExitStack() as both:
            both.callback(self.s3.stop)
            both.callback(self.mlflow.stop)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
