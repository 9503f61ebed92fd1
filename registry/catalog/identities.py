"""What LoggedModels say that they are: the tags that identify a version of a store.

A registered version names its LoggedModel as its source, which can't be changed. So what a registered version is, is
said by its source alone. These tags never change once all of them are set, so each LoggedModel is read once, until
`forget`: it may be deleted.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from registry.catalog import tags

if TYPE_CHECKING:
    from mlflow import MlflowClient

_FEW = 5
"""So many are read one by one; more of them by a search, which answers with the metrics too."""
_PAGE = 200


class Identities:
    """The identity tags of LoggedModels by their ids, kept for as long as the process runs."""

    def __init__(self) -> None:
        self._known: dict[str, Mapping[str, str]] = {}

    def forget(self) -> None:
        """Read all of them anew, when they are next asked for."""
        self._known.clear()

    def of(self, client: MlflowClient, model: str, ids: Collection[str]) -> dict[str, Mapping[str, str]]:
        """The identity tags of LoggedModels of a model; empty for those that say nothing.

        For one that is deleted, or was found to be false, there is only the tag that says so.
        """
        missing = [each for each in ids if each not in self._known]
        found = self._searched(client, model, missing) if len(missing) > _FEW else {}
        found |= {each: _read(client, each) for each in missing if each not in found}
        self._known |= {each: said for each, said in found.items() if len(said) == len(tags.IDENTITY)}
        return {each: found.get(each) or self._known.get(each, {}) for each in ids}

    def _searched(self, client: MlflowClient, model: str, wanted: Collection[str]) -> dict[str, Mapping[str, str]]:
        """Those among all LoggedModels of the model's experiment."""
        experiment, token = client.get_experiment_by_name(model), None
        found: dict[str, Mapping[str, str]] = {}
        while experiment is not None:
            page = client.search_logged_models([experiment.experiment_id], max_results=_PAGE, page_token=token)
            found |= {str(each.model_id): _identity(each.tags) for each in page if each.model_id in wanted}
            token = page.token
            if not token or len(found) == len(wanted):
                break
        return found


def _read(client: MlflowClient, model_id: str) -> Mapping[str, str]:
    from mlflow.exceptions import MlflowException

    try:
        return _identity(client.get_logged_model(model_id).tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {tags.REFUSED: "its LoggedModel was deleted"}


def _identity(said: Mapping[str, str]) -> dict[str, str]:
    if tags.REFUSED in said:
        return {tags.REFUSED: said[tags.REFUSED]}
    return {tag: said[tag] for tag in tags.IDENTITY if tag in said}
