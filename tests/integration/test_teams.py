"""Several teams on one MLflow server with MLflow's own logins: who may do what, and what is said to whoever may not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from registry.devstack.s3_server import S3Server
from tests.servers.mlflow_auth import ADMIN, PASSWORD, USER, MlflowWithLogins
from tests.support.bundles import noise
from tests.support.pages import ROOT
from tests.support.registries import small_bundle, write_policy
from tests.support.run_ulora import Finished, complains, ulora

pytestmark = pytest.mark.acceptance

ANN, EVE = "ann", "eve"
LOWER = {"MANAGE": "EDIT", "EDIT": "READ", "READ": None}
TABLE = re.compile(r"^\| (\w+) \| (MANAGE|EDIT|READ) \| (MANAGE|EDIT|READ) \|", re.MULTILINE)


@pytest.fixture(scope="module")
def logins(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowWithLogins]:
    """An MLflow server on which nobody may do what no right allows."""
    server = MlflowWithLogins(tmp_path_factory.mktemp("mlflow"))
    try:
        yield server.start()
    finally:
        server.kill()


@dataclass(frozen=True)
class Desk:
    """A machine with the keys of the store, from which people of several teams work."""

    server: MlflowWithLogins
    stores: str
    folder: Path
    patch: pytest.MonkeyPatch

    def be(self, user: str, password: str = "") -> None:
        """Work as a user of MLflow; as nobody without a name."""
        for name in (USER, PASSWORD):
            self.patch.delenv(name, raising=False)
        self.patch.setenv("MLFLOW_TRACKING_URI", self.server.url)
        for name, value in self.server.env_of(user).items() if user else ():
            self.patch.setenv(name, value)
        if password:
            self.patch.setenv(PASSWORD, password)

    def work_on(self, team: str) -> str:
        """Work on the model of a team, in the team's own store; returns the model's name."""
        model = f"model-of-{team}"
        mine = {"STORE": f"{self.stores}/{team}", "MODEL": model, "CACHE": str(self.folder / team), "WHO": "a test"}
        for name, value in mine.items():
            self.patch.setenv(f"ULORA_{name}", value)
        self.patch.setenv("ULORA_POLICY", str(write_policy(self.folder)))
        return model

    def allow(self, user: str, model: str, on_model: str | None, on_experiment: str | None) -> None:
        """Give a user exactly these rights on a model and on its experiment."""
        self.be(ADMIN)
        experiment = self.client().get_experiment_by_name(model).experiment_id
        self.server.allow_only(user, "registered_model", model, on_model)
        self.server.allow_only(user, "experiment", experiment, on_experiment)

    def client(self):  # type: ignore[no-untyped-def]
        """MLflow's own client, for whoever works now."""
        from mlflow import MlflowClient

        return MlflowClient(self.server.url, self.server.url)

    def create(self, name: str) -> Finished:
        bundle = small_bundle(self.folder / f"bundle-{name}", seed=sum(map(ord, name)))
        return ulora("create", name, "--from", bundle)


@pytest.fixture
def desk(
    logins: MlflowWithLogins, s3: S3Server, store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Desk:
    desk = Desk(logins, store_url, tmp_path, monkeypatch)
    desk.be(ADMIN)
    for user in (ANN, EVE):
        logins.add_user(user)
    return desk


def says_without_password(desk: Desk, finished: Finished, code: int, *says: str) -> None:
    complains(finished, code, *says)
    for secret in [*desk.server.passwords.values(), "not-the-password"]:
        assert secret not in finished.out + finished.err


def test_two_teams_on_one_server_do_not_harm_each_other(desk: Desk) -> None:
    for user, team in ((EVE, "berries"), (ANN, "apples")):
        desk.be(user)
        model = desk.work_on(team)
        assert ulora("store", "init").code == 0
        for name in ("v1.0.0", "v2.0.0"):
            assert (done := desk.create(name)).code == 0, done
            assert ulora("promote", name, "--channel", "production", "--reason", "first").code == 0
        assert (done := ulora("reconcile")).code == 0, done
        assert desk.client().get_registered_model(model).aliases["production"] == "2"

    desk.be(EVE)  # of another team, with the keys of this store
    without_read = ("READ on the registered model is missing for the user eve (403)", "an administrator", "security.md")
    for words in (("reconcile",), ("reconcile", "--dry-run")):
        says_without_password(desk, ulora(*words), 7, *without_read)
    says_without_password(desk, desk.create("v3.0.0"), 8, "v3.0.0 is in the store", "missing for the user eve (403)")
    with pytest.raises(Exception, match="Permission denied"):
        desk.client().set_registered_model_alias("model-of-apples", "request-production", "1")
    for words, after in (
        (("rollback",), "v1.0.0"),
        (("promote", "v2.0.0", "--channel", "production", "--force"), "v2.0.0"),
    ):
        moved = ulora(*words, "--reason", "in S3 it may")
        assert moved.code == 0, moved
        assert "note: MLflow does not show it yet" in moved.err
        assert "Traceback" not in moved.err
        assert f"to {after} by" in moved.out

    desk.be(ANN, password="not-the-password")
    says_without_password(desk, ulora("reconcile"), 7, "does not take the password of the user ann", USER)
    desk.be("")
    says_without_password(desk, ulora("reconcile"), 7, "asks for a login, and none is set here", USER)

    desk.be(ANN)
    desk.client().set_registered_model_alias("model-of-apples", "request-production", "1")
    asked = ulora("reconcile")
    assert asked.code == 0, asked
    assert "request of v1.0.0 for production: promoted" in asked.out
    assert "log v3.0.0 in MLflow" in asked.out
    assert desk.client().get_registered_model("model-of-apples").aliases["production"] == "1"
    assert ulora("verify", "--all").code == 0
    desk.be(EVE)
    desk.work_on("berries")
    assert (done := ulora("reconcile", "--dry-run")).code == 0, done
    assert "nothing to do" in done.out


def act(role: str, number: int, desk: Desk) -> Finished:
    """What a role does, so that MLflow has to show something; the last command's end."""
    if role == "publisher":
        return desk.create(f"v{number}.1.0")
    if role == "measurer":
        return ulora("measure", "v1.0.0", "--only", "accuracy", "--data", desk.folder / "images")
    if role == "promoter":
        for channel, name in (("staging", "v1.0.0"), ("staging", "v2.0.0"), ("production", f"v{number % 2 + 1}.0.0")):
            moved = ulora("promote", name, "--channel", channel, "--reason", f"try {number}")
            assert moved.code == 0, moved
        return ulora("reconcile")
    assert role == "reader"
    return ulora("reconcile", "--dry-run")


def test_each_role_needs_the_rights_of_the_page(desk: Desk) -> None:
    """One right less is too little, and is named; the rights of the page are enough."""
    folder = desk.folder / "images/low/test/zero"
    folder.mkdir(parents=True)
    for number in range(4):
        Image.fromarray(noise(number)).save(folder / f"{number}.png")
    desk.be(ANN)
    model = desk.work_on("plums")
    assert ulora("store", "init").code == 0
    for name in ("v1.0.0", "v2.0.0"):
        assert (done := desk.create(name)).code == 0, done
    rows = TABLE.findall((ROOT / "docs" / "security.md").read_text())
    assert [role for role, *_ in rows] == ["publisher", "measurer", "promoter", "reader"]
    number = 2
    for role, on_model, on_experiment in rows:
        lower = [(LOWER[on_model], on_experiment), (on_model, LOWER[on_experiment]), (on_model, on_experiment)]
        for rights in lower:
            number += 1
            desk.allow(EVE, model, *rights)
            desk.be(EVE)
            done = act(role, number, desk)
            told = done.out + done.err
            if rights == (on_model, on_experiment):
                assert (done.code, "missing for" in told) == (0, False), (role, rights, done)
                continue
            lacks = on_model if rights[0] != on_model else on_experiment
            what = "registered model" if rights[0] != on_model else "experiment"
            assert re.search(rf"{lacks} on the {what}[^(]* is missing for the user {EVE} \(403\)", told), (rights, done)
            assert done.code in (0, 7, 8), done
