"""Whether an address can be one of an MLflow server: mistakes are named before MLflow is imported, which takes seconds.

MLflow takes everything that has no scheme it knows for a folder, and says so in ways that do not name the mistake.
"""

from __future__ import annotations

import os
import re
from difflib import get_close_matches
from importlib.metadata import entry_points
from urllib.parse import unquote, urlsplit

from registry.errors import BadSetting
from registry.formats.addresses import has_host, without_password
from registry.formats.header_values import check_header

_DATABASES = ("postgresql", "mysql", "sqlite", "mssql")
_SCHEMES = ("http", "https", *_DATABASES, "databricks", "databricks-uc", "uc", "file")
_PLUGINS = ("mlflow.tracking_store", "mlflow.model_registry_store")
_NO_SCHEME = ("databricks", "databricks-uc", "uc")
_ADDRESS = re.compile(r"[\w.-]+\.[\w.-]+(:\d+)?(/.*)?|[\w.-]+:\d+(/.*)?")
"""Of a host with a dot, or a host with a port."""
_START = (
    "start one (`mlflow server --backend-store-uri sqlite:///mlflow.db`) and set MLFLOW_TRACKING_URI to its address"
)


def check_tracking_uri(uri: str) -> str:
    """Return the address of an MLflow server unchanged.

    Raises:
        BadSetting: it can't be one: no or an unknown scheme, a folder, no host, or a password that can't be sent.
    """
    shown = without_password(uri)
    scheme = urlsplit(uri).scheme if "://" in uri or uri.startswith("file:") else ""
    if (not scheme and uri not in _NO_SCHEME) or scheme == "file":
        _refuse_folder(shown, scheme)
    elif scheme in ("http", "https"):
        if not has_host(uri):
            raise BadSetting(
                f"the MLflow server's address {shown!r} has no valid host and port",
                hint="set MLFLOW_TRACKING_URI (or --tracking-uri) to http://HOST:PORT; quote special characters "
                "(`@` is %40), or use MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            )
        _check_password(uri, shown)
    elif scheme:
        _check_scheme(scheme.partition("+")[0], shown)
    return uri


def _check_password(uri: str, shown: str) -> None:
    """Check the user and password in an address, which MLflow's HTTP client encodes as Latin-1."""
    parts = urlsplit(uri)
    for what, value in (("user", parts.username), ("password", parts.password)):
        check_header(
            f"the {what} in the MLflow server's address {shown!r}", unquote(value or ""), "latin-1",
            hint="use MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, which may have any letters",
        )  # fmt: skip


def _refuse_folder(shown: str, scheme: str) -> None:
    malformed = re.match(r"(https?):/*(?!/)", shown)
    if malformed or (not scheme and _ADDRESS.fullmatch(shown) and not shown.startswith(("./", "../"))):
        address = f"{malformed[1]}://{shown[malformed.end() :]}" if malformed else f"http://{shown}"
        raise BadSetting(
            f"the MLflow server's address {shown!r} does not begin with http:// or https://",
            hint=f"set MLFLOW_TRACKING_URI (or --tracking-uri) to {address}",
        )
    if os.environ.get("MLFLOW_ALLOW_FILE_STORE", "").lower() not in ("true", "1"):
        raise BadSetting(f"{shown!r} is a folder, where MLflow 3 keeps no models; a server is needed", hint=_START)


def _check_scheme(scheme: str, shown: str) -> None:
    plugins = {entry.name for group in _PLUGINS for entry in entry_points(group=group)}
    if scheme in _SCHEMES or scheme in plugins:
        return
    near = get_close_matches(scheme, _SCHEMES, n=1)
    raise BadSetting(
        f"the MLflow server's address {shown!r} has the scheme {scheme!r}, which MLflow does not know",
        hint=(f"did you mean {near[0]}://? " if near else "")
        + f"it takes http, https, {', '.join(_DATABASES)}, and those of plugins",
    )
