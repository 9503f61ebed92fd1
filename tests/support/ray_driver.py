"""A program that predicts images on a cluster of Ray Data, to be killed and run again.

ray_driver.py ADDRESS FOLDER VERSION VARIABLES: reads FOLDER/images, writes FOLDER/out/rows, and what is done into
FOLDER/done.
"""

from __future__ import annotations

import json
import sys

import ray
import ray.data
from ray.data.checkpoint import CheckpointConfig

from registry.serving.ray import DatasetOptions, predict_dataset


def main(address: str, folder: str, version: str, variables: str) -> None:
    """Predict the images, a few in each part file."""
    ray.init(address=address, runtime_env={"env_vars": json.loads(variables)}, log_to_driver=False)
    context = ray.data.DataContext.get_current()
    context.checkpoint_config = CheckpointConfig(id_column="path", checkpoint_path=f"{folder}/done")
    images = ray.data.read_binary_files(f"{folder}/images", include_paths=True, override_num_blocks=10)
    predict_dataset(images, version, DatasetOptions(batch_size=3)).write_parquet(f"{folder}/out/rows")


if __name__ == "__main__":
    main(*sys.argv[1:])
