"""A process that sets an MLflow alias: `python -m benchmarks.baselines.mlflow_set_alias MODEL NUMBER`.

The usual way to roll back in a team whose servers follow an alias. Its best settings: `MlflowClient` alone, telemetry
off, no `mlflow.set_experiment`, and nothing imported besides. `set` is printed as soon as the server has answered.
"""

from __future__ import annotations

import click


@click.command()
@click.argument("model")
@click.argument("number")
@click.option("--alias", default="production")
def main(model: str, number: str, alias: str) -> None:
    """Set an alias."""
    from mlflow import MlflowClient

    MlflowClient().set_registered_model_alias(model, alias, number)
    print("set", flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
