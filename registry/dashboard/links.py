"""Links into MLflow, made without asking it."""

from __future__ import annotations

from urllib.parse import quote

from registry.formats.addresses import has_host, without_password
from registry.settings import Settings


def model_page(settings: Settings) -> str:
    """MLflow's page of the model, which lists its versions; empty if the tracking server has no pages."""
    address = settings.tracking_uri or ""
    if not address.startswith(("http://", "https://")) or not has_host(address):
        return ""
    server = without_password(address).partition("?")[0].rstrip("/")
    return f"{server}/#/models/{quote(settings.model, safe='')}?workflowType=machine_learning"
