"""Tag the runs that are made with MLflow while `ULORA_VERSION` is set: by whose release they were made.

`mlflow.start_run` asks for the tags, in other people's programs, where nothing here may fail: what is invalid is said
once, and left out.
"""

from __future__ import annotations

import logging
import os

from mlflow.tracking.context.abstract_context import RunContextProvider

from registry.errors import BadInput, first_line
from registry.names import VersionName, check_model

VERSION = "ULORA_VERSION"
MODEL = "ULORA_MODEL"
VERSION_TAG = "ulora.version"
MODEL_TAG = "ulora.model"

_log = logging.getLogger("mlflow.ulora")


class VersionRunContext(RunContextProvider):  # type: ignore[misc]
    """Adds `ulora.version` to new runs, and `ulora.model` where `ULORA_MODEL` is set too."""

    def __init__(self) -> None:
        self._said: set[str] = set()

    def in_context(self) -> bool:
        """Whether `ULORA_VERSION` is set."""
        return bool(os.environ.get(VERSION))

    def tags(self) -> dict[str, str]:
        """The tags by what is set; without a valid version none."""
        try:
            found = {VERSION_TAG: str(VersionName.parse(os.environ.get(VERSION, "")))}
            if model := os.environ.get(MODEL):
                found[MODEL_TAG] = check_model(model)
        except BadInput as error:
            self._say_once(f"this run gets no tags of ulora: {first_line(error)} ({VERSION}, {MODEL})")
            return {}
        return found

    def _say_once(self, text: str) -> None:
        if text not in self._said and len(self._said) < 10:
            self._said.add(text)
            _log.warning(text)
