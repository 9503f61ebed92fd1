"""A server that answers one image per call in a pool of threads, as replicas did before they computed batches.

`python -m benchmarks.baselines.one_at_a_time BUNDLE BACKBONE --port PORT`. Its best settings: as many calls at a time
as there are cores, each computed by one thread.
"""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.to_thread
import click
import torch
import uvicorn
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse

from adapters.answer.loading import load_bundle
from benchmarks.synthetic import files_of
from registry.machine.cores import usable_cores


def create_app(bundle: Path, backbone: Path) -> FastAPI:
    """The application that answers by a bundle."""
    loaded = load_bundle(files_of(bundle), backbone_folders=[backbone])
    torch.set_num_threads(1)
    app = FastAPI()
    turns = anyio.CapacityLimiter(usable_cores())

    async def predict(request: Request) -> JSONResponse:
        image, target = await request.body(), request.query_params.get("target")
        answer = await anyio.to_thread.run_sync(lambda: loaded.predict(image, target=target), limiter=turns)
        return JSONResponse(answer.to_dict())

    async def health(request: Request) -> PlainTextResponse:
        return PlainTextResponse("ok")

    app.add_api_route("/predict", predict, methods=["POST"])
    app.add_api_route("/health", health, methods=["GET"])
    return app


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("backbone", type=click.Path(path_type=Path))
@click.option("--port", type=int, required=True)
def main(bundle: Path, backbone: Path, port: int) -> None:
    """Serve a bundle."""
    uvicorn.run(create_app(bundle, backbone), host="127.0.0.1", port=port, log_level="error")


if __name__ == "__main__":
    main()
