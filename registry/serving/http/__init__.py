"""The HTTP service of a replica. It needs the `serve` extra: without it the import raises `MissingDependency`."""

from registry.errors import MissingDependency

try:
    import fastapi  # noqa: F401
    import python_multipart  # noqa: F401  Starlette looks for it only when the first form arrives
    import uvicorn  # noqa: F401
except ModuleNotFoundError as error:
    raise MissingDependency(
        f"serving over HTTP needs {error.name}, which is not installed", hint="pip install 'ulora-registry[serve]'"
    ) from error
