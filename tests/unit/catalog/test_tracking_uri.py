"""Mistakes in the address of the MLflow server: what is wrong and what to set, in a line, before MLflow is imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

from registry.catalog.connection import Connection
from registry.catalog.denials import MAX_DENIED, Denials
from registry.catalog.tracking_uri import check_tracking_uri
from registry.errors import BadSetting, CatalogDenied, CatalogRefused, CatalogUnreachable, MissingDependency

MISTAKES = {
    "127.0.0.1:5000": ("does not begin with http://", "to http://127.0.0.1:5000"),
    "mlflow.example.com": ("does not begin with http://", "to http://mlflow.example.com"),
    "http:/127.0.0.1:5000": ("does not begin with http://", "to http://127.0.0.1:5000"),
    "user:SECRET@host:5000": ("'host:5000'", "http://"),
    "/dir": ("'/dir' is a folder", "mlflow server"),
    "./mlruns": ("is a folder", "mlflow server"),
    "file:///dir": ("is a folder", "mlflow server"),
    "htps://user:SECRET@host": ("'htps://host' has the scheme 'htps'", "did you mean https://?"),
    "http://": ("no valid host", "http://HOST:PORT"),
    "http://host:70000": ("no valid host", "http://HOST:PORT"),
    "http://user:SE/CRET@host": ("no valid host", "MLFLOW_TRACKING_PASSWORD"),
    "http://user:SE CRET#1@host": ("no valid host", "MLFLOW_TRACKING_PASSWORD"),
    "http://user:SECRET\u0151@host": ("the password in the MLflow server's address", "MLFLOW_TRACKING_PASSWORD"),
    "http://user:SECRET%C5%91@host": ("is not Latin-1", "MLFLOW_TRACKING_PASSWORD"),
    "http://SECRET%0A:x@host": ("the user in the MLflow server's address", "MLFLOW_TRACKING_PASSWORD"),
}


@pytest.mark.parametrize("uri", MISTAKES)
def test_a_mistake_is_named_with_what_to_set(uri: str) -> None:
    says, fix = MISTAKES[uri]
    with pytest.raises(BadSetting) as error, Connection(uri).open():
        pass
    assert says in str(error.value)
    assert fix in error.value.hint
    assert "\n" not in f"{error.value}{error.value.hint}"
    assert "CRET" not in f"{error.value}{error.value.hint}"


@pytest.mark.parametrize("name", ["MLFLOW_TRACKING_TOKEN", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"])
@pytest.mark.parametrize("value", ["SECRET\n", "SEC\r\nRET", "SECRET\udcff"])
def test_credentials_that_cant_be_sent_are_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSetting, match=f"^{name} ") as error, Connection("http://h").open():
        pass
    assert "SEC" not in f"{error.value}{error.value.hint}"
    assert Connection("sqlite:////tmp/x.db").checked_uri()  # where nothing is sent


def test_a_password_may_have_any_letter_and_a_token_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "k\u0151")
    assert Connection("http://h").checked_uri() == "http://h"
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "k\u0151")
    with pytest.raises(BadSetting, match="MLFLOW_TRACKING_TOKEN has a character in it that is not ASCII"):
        Connection("http://h").checked_uri()


def test_a_header_that_mlflow_shows_is_cut() -> None:
    said = "failed with exception Invalid leading whitespace, reserved character(s), or return character(s) in header"
    error = Connection("http://h")._translate("INTERNAL_ERROR", RuntimeError(f"{said} value: 'Bearer SECRET\\n'"))
    assert str(error).endswith("in header value (not shown)")


@pytest.mark.parametrize(
    "uri", ["http://h", "HTTPS://h:1/a", "sqlite:////tmp/x.db", "postgresql+psycopg2://u:p@h/d", "databricks"]
)
def test_what_mlflow_takes_is_left_to_it(uri: str) -> None:
    assert check_tracking_uri(uri) == uri


def test_a_folder_may_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    assert check_tracking_uri("/dir") == "/dir"


def test_a_mistake_is_found_without_importing_mlflow() -> None:
    code = (
        "import sys\nfrom registry.catalog.client import Catalog\nfrom registry.errors import BadSetting\n"
        "try: Catalog('127.0.0.1:5000', 's3://bucket/x').ping()\nexcept BadSetting: print('mlflow' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_a_driver_that_is_missing_is_named_with_its_package() -> None:
    said = r"needs pymysql for mysql\+pymysql://127\.0\.0\.1:1/db"
    driver = Connection("mysql+pymysql://u:SECRET@127.0.0.1:1/db")
    with pytest.raises(MissingDependency, match=said) as error, driver.open() as client:
        client.search_experiments(max_results=1)
    assert "pip install 'pymysql'" in error.value.hint


@pytest.mark.parametrize(
    ("said", "kind", "says", "fix"),
    [
        ("failed with error code 404 != 200. Response body: '<!doctype html>'", CatalogRefused, "404", "path"),
        ("SSLError(1, '[SSL: WRONG_VERSION_NUMBER] wrong version", CatalogUnreachable, "TLS", "http://"),
        ("[SSL: CERTIFICATE_VERIFY_FAILED]", CatalogUnreachable, "certificate", "MLFLOW_TRACKING_SERVER_CERT_PATH"),
        ("413 Client Error: Request Entity Too Large for url", CatalogRefused, "(413)", "client_max_body_size"),
        ("API response is not in a valid JSON format: <html>", CatalogRefused, "sign-in page", "MLFLOW_TRACKING_TOKEN"),
    ],
)
def test_what_stands_before_the_server_is_recognised(
    said: str, kind: type[Exception], says: str, fix: str
) -> None:  # fmt: skip
    error = Connection("http://u:SECRET@h")._translate("INTERNAL_ERROR", RuntimeError(f"{said} http://u:SECRET@h"))
    assert type(error) is kind
    assert says in str(error)
    assert fix in error.hint
    assert "SECRET" not in str(error)


@pytest.mark.parametrize(
    ("said", "says"),
    [
        ("API request to endpoint /api/2.0/mlflow/registered-models/get failed with error code 403 != 200. "
         "Response body: 'Permission denied'", "READ on the registered model is missing for the user u (403)"),
        ("API request to endpoint /api/2.0/mlflow/runs/create failed with error code 403 != 200. "
         "Response body: 'Permission denied'", "EDIT on the experiment is missing for the user u (403)"),
        ("403 Client Error: FORBIDDEN for url: http://h/api/2.0/mlflow-artifacts/artifacts/1/models/m-0/MLmodel",
         "EDIT on the experiment, or READ where it only reads, is missing for the user u (403)"),
        ("API request failed with error code 401 != 200. Response body: 'You are not authenticated.'",
         "does not take the password of the user u (401)"),
        ("PERMISSION_DENIED: the workspace says no, http://u:SECRET@h", "refuses the user u: PERMISSION_DENIED"),
    ],
)  # fmt: skip
def test_a_refused_login_or_right_is_named(said: str, says: str) -> None:
    code = "PERMISSION_DENIED" if said.startswith("PERMISSION") else "INTERNAL_ERROR"
    error = Connection("http://u:SECRET@h")._translate(code, RuntimeError(said))
    assert type(error) is CatalogDenied
    assert says in str(error)
    assert error.hint
    assert "SECRET" not in str(error) + error.hint


def test_changes_denied_alike_are_told_once_and_given_up_in_time() -> None:
    denials = Denials()
    for number in range(MAX_DENIED - 1):
        with denials.noted(f"stage {number}"):
            raise CatalogDenied("EDIT is missing")
    assert denials.told == (f"stage 0, stage 1, stage 2 and {MAX_DENIED - 4} more: EDIT is missing",)
    with pytest.raises(CatalogDenied), denials.noted("one more"):
        raise CatalogDenied("EDIT is missing")
