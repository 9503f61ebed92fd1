"""A real MLflow server with MLflow's own logins, `mlflow server --app-name basic-auth`, and users with rights."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

from registry.devstack.mlflow_server import MlflowServer

if TYPE_CHECKING:
    from mlflow.server.auth.client import AuthServiceClient

ADMIN = "admin"
USER, PASSWORD = "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"


class MlflowWithLogins(MlflowServer):
    """An MLflow server that answers only users with a password, each by its rights.

    Attributes:
        default_permission: what users may do with what they were given no right on.
        passwords: of each user.
    """

    def __init__(self, folder: Path, default_permission: str = "NO_PERMISSIONS") -> None:
        super().__init__(folder)
        self.default_permission = default_permission
        self.passwords = {ADMIN: "password-of-admin"}

    @property
    def env(self) -> dict[str, str]:
        """What MLflow reads, as the administrator."""
        return self.env_of(ADMIN)

    def env_of(self, user: str) -> dict[str, str]:
        """What MLflow reads, as a user."""
        return super().env | {USER: user, PASSWORD: self.passwords[user]}

    def add_user(self, name: str) -> None:
        """Add a user, unless it is there. The caller is the administrator, by its environment."""
        if name not in self.passwords:
            self.passwords[name] = f"password-of-{name}"
            self._as_admin().create_user(name, self.passwords[name])

    def allow_only(self, user: str, kind: str, what: str, right: str | None) -> None:
        """Give a user exactly one right, or none, on the `registered_model` of a name or the `experiment` of an id."""
        from mlflow.exceptions import MlflowException

        admin = self._as_admin()
        try:
            admin.revoke_user_permission(user, kind, what)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
        if right:
            admin.grant_user_permission(user, kind, what, right)

    def _as_admin(self) -> AuthServiceClient:
        from mlflow.server.auth.client import AuthServiceClient

        return AuthServiceClient(self.url)

    def _command(self) -> list[str]:
        return [*super()._command(), "--app-name", "basic-auth"]

    def _child_env(self) -> dict[str, str]:
        return super()._child_env() | {
            "MLFLOW_FLASK_SERVER_SECRET_KEY": secrets.token_hex(16),
            "MLFLOW_AUTH_CONFIG_PATH": str(self._config),
        }

    @property
    def _config(self) -> Path:
        return self.folder / "auth.ini"

    def _prepare_folder(self) -> None:
        super()._prepare_folder()
        values = {
            "default_permission": self.default_permission,
            "database_uri": f"sqlite:///{self.folder / 'auth.db'}",
            "admin_username": ADMIN,
            "admin_password": self.passwords[ADMIN],
            "auth_cache_ttl_seconds": 600,  # without it each request hashes the password, some tenths of a second
        }
        self._config.write_text("[mlflow]\n" + "".join(f"{name} = {value}\n" for name, value in values.items()))
