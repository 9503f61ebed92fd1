"""LitServe with the same forward pass, in batches: `python -m benchmarks.baselines.litserve_server BUNDLE BACKBONE`.

Its best settings here: one worker process for the model, batches of the same size as the replica's, no longer waited
for than 2 ms, images decoded in the worker's own loop, one process for HTTP.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import click
import litserve

from benchmarks.synthetic import files_of

_BATCH_SECONDS = 0.002


class BundleApi(litserve.LitAPI):  # type: ignore[misc]
    """The answers of a bundle. The worker process makes its own, after this was copied there."""

    def __init__(self, bundle: str, backbone: str, max_batch: int) -> None:
        super().__init__(max_batch_size=max_batch, batch_timeout=_BATCH_SECONDS)
        self._bundle, self._backbone = bundle, backbone

    def setup(self, device: str) -> None:
        """Load it."""
        from adapters.answer.loading import load_bundle

        self.loaded = load_bundle(files_of(Path(self._bundle)), backbone_folders=[self._backbone])
        self.loaded.begin_computing()

    def decode_request(self, request: dict[str, str]) -> Any:
        """A row."""
        return self.loaded.prepare(base64.b64decode(request["image"]), request["target"])

    def batch(self, inputs: list[Any]) -> list[Any]:
        """Rows stay a list."""
        return inputs

    def unbatch(self, output: list[Any]) -> list[Any]:
        """So do answers."""
        return output

    def predict(self, rows: Any) -> Any:
        """Answer rows, or one row where a batch has one."""
        return self.loaded.answer_rows(rows) if isinstance(rows, list) else self.loaded.answer_rows([rows])[0]

    def encode_response(self, output: Any) -> dict[str, Any]:
        """The same document as the replica's."""
        return dict(output.to_dict())


@click.command()
@click.argument("bundle")
@click.argument("backbone")
@click.option("--port", type=int, required=True)
@click.option("--max-batch", type=int, required=True)
def main(bundle: str, backbone: str, port: int, max_batch: int) -> None:
    """Serve a bundle."""
    server = litserve.LitServer(BundleApi(bundle, backbone, max_batch), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=port, num_api_servers=1, generate_client_file=False, log_level="error")


if __name__ == "__main__":
    main()
