"""Cold starts to compare a replica's with: `python -m benchmarks.serving.starts`. Each prints `ready` when it is.

`bytes`: GET every file of a version and its backbone in parallel, then load the backbone by transformers and compute
one image: the least that any server has to do. `mlflow`: `mlflow.pyfunc.load_model`, and one prediction.
"""

from __future__ import annotations

import base64
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from benchmarks.serving.stage import TARGETS, photos

_AT_A_TIME = 16


@click.group()
def main() -> None:
    """The starts."""


@main.command("bytes")
@click.argument("bucket")
@click.argument("config", type=click.Path(path_type=Path))
@click.argument("weights")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("keys", nargs=-1)
def get_bytes(bucket: str, config: Path, weights: str, folder: Path, keys: tuple[str, ...]) -> None:
    """GET keys of a bucket, of which `weights` are those of the backbone, into a folder; load the backbone."""
    import boto3
    from boto3.s3.transfer import TransferConfig

    client = boto3.client("s3")
    folder.mkdir(parents=True)
    at_once = TransferConfig(max_concurrency=_AT_A_TIME)

    def fetch(key: str) -> None:
        name = "model.safetensors" if key == weights else key.rpartition("/")[2]
        client.download_file(bucket, key, str(folder / name), Config=at_once)

    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        fetched = [pool.submit(fetch, key) for key in (weights, *keys)]
        import torch
        from transformers import AutoModel
        from transformers.utils import logging

        logging.disable_progress_bar()  # type: ignore[no-untyped-call]
        for one in fetched:
            one.result()
    (folder / "config.json").write_bytes(config.read_bytes())
    model = AutoModel.from_pretrained(folder).eval()
    side = int(model.config.image_size if model.config.image_size < 224 else 224)
    with torch.no_grad():
        model(pixel_values=torch.zeros(1, 3, side, side))
    click.echo("ready")


@main.command("mlflow")
@click.argument("model")
def load_by_mlflow(model: str) -> None:
    """Load version 1 of a registered model, and predict."""
    import mlflow
    import pandas as pd

    loaded = mlflow.pyfunc.load_model(f"models:/{model}/1")
    image = base64.b64encode(photos(1)[0]).decode()
    loaded.predict(pd.DataFrame({"image": [image], "target": [TARGETS[0]]}))
    click.echo("ready")


if __name__ == "__main__":
    main()
