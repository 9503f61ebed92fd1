"""The HTTP service of a replica. It needs the `serve` extra: without it the import raises `MissingDependency`."""

from importlib.util import find_spec

from registry.errors import MissingDependency, install_hint

# Looked for, not imported: checks of options should not wait for FastAPI. Starlette looks for python_multipart only
# when the first form arrives.
for _name in ("fastapi", "httptools", "prometheus_client", "python_multipart", "uvicorn"):
    if find_spec(_name) is None:
        raise MissingDependency(f"serving over HTTP needs {_name}, which is not installed", hint=install_hint("serve"))
