"""The HTTP service of a replica. It needs the `serve` extra: without it the import raises `MissingDependency`."""

from importlib.util import find_spec

from registry.errors import MissingDependency

for _name in (
    "fastapi",
    "uvicorn",
    "python_multipart",
    "prometheus_client",
):  # looked for, and not imported: that takes a while
    if find_spec(_name) is None:
        raise MissingDependency(
            f"serving over HTTP needs {_name}, which is not installed", hint="pip install 'ulora-registry[serve]'"
        )
