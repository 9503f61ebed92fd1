"""Errors of this package as MLflow's own, which its command line prints as one line and not as a traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import click
from mlflow.exceptions import MlflowException
from mlflow.protos import databricks_pb2 as codes

from registry import errors
from registry.errors import UloraError

_CODES: tuple[tuple[type[UloraError], int], ...] = (
    (errors.BadInput, codes.INVALID_PARAMETER_VALUE),
    (errors.NotFound, codes.RESOURCE_DOES_NOT_EXIST),
    (errors.Conflict, codes.RESOURCE_CONFLICT),
    (errors.GateRefused, codes.INVALID_STATE),
    (errors.IntegrityError, codes.DATA_LOSS),
    (errors.StoreDenied, codes.PERMISSION_DENIED),
    (errors.CatalogRefused, codes.PERMISSION_DENIED),
    (errors.ReplicaDenied, codes.PERMISSION_DENIED),
    (errors.Unreachable, codes.TEMPORARILY_UNAVAILABLE),
)
"""MLflow's code of an error; the first line that matches counts."""


class RefusedByUlora(MlflowException, click.ClickException):  # type: ignore[misc]
    """An error of ulora with its hint, as MLflow's clients and its command line know errors.

    Attributes:
        exit_code: that of the `ulora` command.
    """

    def __init__(self, error: UloraError) -> None:
        code = next((code for kind, code in _CODES if isinstance(error, kind)), codes.INTERNAL_ERROR)
        said = f"{error}\nhint: {error.hint}" if error.hint else str(error)
        MlflowException.__init__(self, said, error_code=code)  # which calls click's
        self.exit_code = error.exit_code  # type: ignore[misc]


@contextmanager
def as_mlflow_errors() -> Iterator[None]:
    """Raises: RefusedByUlora: in the place of an error of this package."""
    try:
        yield
    except UloraError as error:
        raise RefusedByUlora(error) from error
