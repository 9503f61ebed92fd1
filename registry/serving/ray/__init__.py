"""Replicas on Ray Serve, and predictions for many images on Ray Data. It needs the `ray` extra: without it the import
raises `MissingDependency`.

    serve run registry.serving.ray:app channel=production max_replicas=4

| module | what is in it |
|---|---|
| `application` | `app`, which `serve run` and `serve deploy` name |
| `arguments` | what may be said to it |
| `replica` | one replica of the fleet, in an actor of Ray |
| `headers` | lets its answers have the headers of `ulora serve` |
| `dataset` | `predict_dataset`, a version over a dataset of Ray Data |
| `opening` | how an actor opens the registry of its settings |

Ray itself is imported by what needs it: an import of this package does not take its seconds.
"""

from importlib.util import find_spec

from registry.errors import MissingDependency, install_hint

if find_spec("ray") is None:
    raise MissingDependency("serving on Ray needs ray, which is not installed", hint=install_hint("ray"))

from registry.serving.ray.application import app, application
from registry.serving.ray.arguments import RayArguments
from registry.serving.ray.dataset import DatasetOptions, predict_dataset

__all__ = ["DatasetOptions", "RayArguments", "app", "application", "predict_dataset"]
