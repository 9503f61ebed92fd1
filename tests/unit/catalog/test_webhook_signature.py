"""Which messages count as webhooks of our MLflow server. They are signed by MLflow's own code."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from mlflow.webhooks.delivery import _generate_hmac_signature

from registry.catalog import webhook_signature
from registry.catalog.webhook_signature import Deliveries, RefusedWebhook, read_secrets
from registry.errors import BadSetting

SECRET, OTHER = "s" * 32, "o" * 32
NOW = 1_800_000_000
BODY = '{"entity": "model_version_alias", "data": {"name": "größe"}}'


def headers(secret: str = SECRET, delivery: str = "d-1", at: int = NOW, body: str = BODY) -> dict[str, str]:
    return {
        "x-mlflow-signature": _generate_hmac_signature(secret, delivery, str(at), body),
        "x-mlflow-delivery-id": delivery,
        "x-mlflow-timestamp": str(at),
    }


def test_what_mlflow_signed_is_taken_once() -> None:
    deliveries = Deliveries([SECRET])
    assert deliveries.is_new(headers(), BODY.encode(), NOW + 1.5)
    assert not deliveries.is_new(headers(), BODY.encode(), NOW + 2)
    assert deliveries.is_new(headers(delivery="d-2"), BODY.encode(), NOW)


def test_any_of_the_secrets_may_have_signed() -> None:
    deliveries = Deliveries([OTHER, SECRET])
    assert deliveries.is_new(headers(), BODY.encode(), NOW)
    assert deliveries.is_new(headers(OTHER, "d-2"), BODY.encode(), NOW)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"x-mlflow-signature": ""}, "not signed"),
        ({"x-mlflow-signature": "v1,AAAA"}, "not made with a secret"),
        ({"x-mlflow-signature": "v1,é"}, "not v1,<base64>"),
        ({"x-mlflow-signature": "v1"}, "not made with a secret"),
        ({"x-mlflow-signature": headers()["x-mlflow-signature"].replace("v1", "v2")}, "not made with a secret"),
        ({"x-mlflow-signature": headers(OTHER)["x-mlflow-signature"]}, "not made with a secret"),
        ({"x-mlflow-delivery-id": "d-2"}, "not made with a secret"),
        ({"x-mlflow-delivery-id": ""}, "no delivery id"),
        ({"x-mlflow-delivery-id": "d" * 1000}, "no delivery id"),
        ({"x-mlflow-timestamp": str(NOW + 1)}, "not made with a secret"),
        ({"x-mlflow-timestamp": "²"}, "no timestamp"),
        ({"x-mlflow-timestamp": "9" * 40}, "no timestamp"),
        (headers(at=NOW - 301), "301 s old"),
        (headers(at=NOW + 301), "-301 s old"),
        (headers(body="{}"), "not made with a secret"),
    ],
)
def test_other_messages_are_refused(changed: dict[str, str], says: str) -> None:
    deliveries = Deliveries([SECRET])
    with pytest.raises(RefusedWebhook) as error:
        deliveries.is_new(headers() | changed, BODY.encode(), NOW)
    assert says in str(error.value)
    assert deliveries.is_new(headers(), BODY.encode(), NOW), "a refused one uses up no delivery"


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhook_signature, "MAX_SEEN", 3)
    deliveries = Deliveries([SECRET])
    for number in range(10):
        assert deliveries.is_new(headers(delivery=f"d-{number}"), BODY.encode(), NOW)
    assert len(deliveries._seen) == 3
    assert not deliveries.is_new(headers(delivery="d-9"), BODY.encode(), NOW)


def test_secrets_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(f"# since May\n{SECRET}\n\n  {OTHER}  \n")
    assert read_secrets(path) == (SECRET, OTHER)


@pytest.mark.parametrize("text", ["", "# nothing\n", "short\n", "two words of a secret\n", "ü" * 40, "x" * 70_000])
def test_a_file_without_usable_secrets_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.write_text(text)
    with pytest.raises(BadSetting) as error:
        read_secrets(path)
    assert "x" * 100 not in str(error.value)


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", tmp_path / "nothing"):
        with pytest.raises(BadSetting):
            read_secrets(path)
