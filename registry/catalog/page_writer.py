"""Write the page of a version in MLflow: its summary run, its description and its short tags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from registry.catalog import tags
from registry.catalog.description import Description, model_description
from registry.catalog.entries import CatalogVersion, Entries, RegisteredModel, people_of, set_tags
from registry.catalog.runs import evidence_runs, experiment_id
from registry.catalog.summary import milliseconds, show_summary, summary_run
from registry.catalog.version_id import Known
from registry.catalog.version_page import Links, VersionPage

if TYPE_CHECKING:
    from mlflow import MlflowClient


def show(client: MlflowClient, entries: Entries, store: str, wanted: Known, page: VersionPage) -> bool:
    """Make the page of a version of a store say what `page` says; False if it did already.

    Raises:
        VersionNotFound: the version is not in MLflow.
    """
    found = entries.get(wanted)
    if is_shown(found, page):
        return False
    identity = tags.identity(page.manifest, wanted.manifest_sha256, store)
    experiment = experiment_id(client, wanted.model)
    if found.model_id is not None and found.logged != identity:
        client.set_logged_model_tags(found.model_id, identity)
    summary = found.run_id or summary_run(client, experiment, page.manifest, identity)
    newest = max((milliseconds(each.timestamp) for each in page.evidence), default=0)
    show_summary(client, summary, page.metrics(), newest)
    links = Links(experiment, summary, evidence_runs(client, experiment, wanted.version), _parent(entries, page))
    differ = _differing_tags(found, page)
    set_tags(client, wanted.model, found, differ)
    return _describe(client, wanted.model, found, page, links) or bool(differ)


def note(client: MlflowClient, model: str, version: CatalogVersion, notices: Mapping[str, str]) -> None:
    """Set notices at the top of a version's page, by their titles; an empty text removes one."""
    said = Description.parse(version.description, version.version or f"#{version.number}")
    wanted = said.noting(notices)
    if wanted != said:
        client.update_model_version(model, str(version.number), str(wanted))


def describe_model(client: MlflowClient, model: str, registered: RegisteredModel) -> bool:
    """Make the description of a registered model say how to ask; False if it did already."""
    wanted = model_description(registered.description)
    if wanted == registered.description:
        return False
    client.update_registered_model(model, wanted)
    return True


def is_shown(found: CatalogVersion, page: VersionPage) -> bool:
    """Whether the page of a version says what `page` says, as far as a list of versions tells."""
    is_complete = all(tag in found.logged for tag in tags.IDENTITY)
    same = Description.parse(found.description, page.manifest.version).mark == page.mark
    return is_complete and same and not _differing_tags(found, page)


def _parent(entries: Entries, page: VersionPage) -> int | None:
    """The number in MLflow of a version's parent."""
    parent = page.manifest.parent
    found = entries.named(page.manifest.model, parent.version, parent.content_sha256) if parent else []
    return min((each.number for each in found), default=None)


def _describe(client: MlflowClient, model: str, found: CatalogVersion, page: VersionPage, links: Links) -> bool:
    said = Description.parse(found.description, page.manifest.version)
    people = said.people if found.description.strip() else people_of(page.manifest)
    wanted = Description(said.name, said.notices, people, page.table(links), page.mark).noting(page.notices())
    if str(wanted) == found.description:
        return False
    client.update_model_version(model, str(found.number), str(wanted))
    return True


def _differing_tags(found: CatalogVersion, page: VersionPage) -> dict[str, str]:
    """The tags to set; empty for those that are no more so, and for those of earlier releases."""
    short, asked = page.short_tags(), found.tags.get(tags.REQUESTED, "")
    wanted = {name: short.get(name, "") for name in tags.SHORT if name != tags.REQUESTED}
    wanted |= dict.fromkeys(found.old_tags, "")
    if len(short) >= tags.MAX_SHORT or asked.partition(" ")[0] in page.settled():
        wanted[tags.REQUESTED] = ""  # a notice says it, or it is so no more
    return {name: value for name, value in wanted.items() if found.tags.get(name, "") != value}
