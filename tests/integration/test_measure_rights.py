"""Measure with the rights of an earlier release, on a server that enforces them: what was measured is not lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from PIL import Image

from registry.api import Registry
from registry.errors import NotInMlflow
from registry.store import layout
from registry.usecases.options import MeasureOptions
from tests.servers.iam import Policy, UserServer
from tests.support.bundles import noise
from tests.support.mlflow_versions import register
from tests.support.registries import create, open_registry
from tests.support.sent_requests import record

V1, PREFIX = "v1.0.0", "team/ulora"
BEFORE = ("versions", "evidence", "channels", "forgotten", "signatures")
"""What the role could read before there were outcomes."""


@dataclass(frozen=True)
class Desk:
    """A version in staging; somebody with all rights, and somebody who may only add evidence."""

    admin: Registry
    measurer: Registry
    images: Path


def role(bucket: str, model: str) -> Policy:
    place = f"arn:aws:s3:::{bucket}/{PREFIX}"
    readable = [f"{place}/format.json", f"{place}/blobs/*", *(f"{place}/models/{model}/{kind}/*" for kind in BEFORE)]
    created = f"{place}/models/{model}/evidence/*"
    return {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Action": ["s3:ListBucket"], "Resource": [f"arn:aws:s3:::{bucket}"]},
            {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": readable},
            {"Effect": "Allow", "Action": ["s3:PutObject"], "Resource": [created]},
        ],
    }


@pytest.fixture
def desk(tmp_path: Path, tracking_uri: str, model: str) -> Iterator[Desk]:
    server = UserServer(tmp_path / "s3").start()
    try:
        found = []
        for who, env in (("admin", server.env), ("measurer", server.add_user("measurer", role(server.bucket, model)))):
            url = f"s3://{server.bucket}/{PREFIX}"
            registry = open_registry(tmp_path / who, url, model, who=who, tracking_uri=tracking_uri)
            with pytest.MonkeyPatch.context() as patch:
                for name, value in env.items():
                    patch.setenv(name, value)
                record(registry.store)  # opens the connections, with these keys
            found.append(registry)
        admin, measurer = found
        admin.store.initialise()
        create(admin, V1, tmp_path)
        register(admin, V1)
        admin.promote(V1, "staging")
        folder = tmp_path / "images/low/test/zero"
        folder.mkdir(parents=True)
        for number in range(4):
            Image.fromarray(noise(number)).save(folder / f"{number}.png")
        yield Desk(admin, measurer, tmp_path / "images")
    finally:
        server.kill()


@pytest.mark.acceptance
def test_a_measurement_is_kept_though_outcomes_are_refused(desk: Desk) -> None:
    said: list[str] = []
    options = MeasureOptions(only=("accuracy", "routing"), data=desk.images)
    kept = desk.measurer.measure(V1, options, offline=True, say=said.append)
    assert [one.benchmark for one in kept] == ["accuracy", "routing"]
    assert [one.sha256 for one in desk.admin.evidence(V1)] == [one.sha256 for one in kept]
    assert {one.outcomes for one in kept} == {None}
    assert list(desk.admin.store.list(layout.outcomes(desk.admin.model, V1))) == []
    told = [line for line in said if "docs/policies/measurer.json" in line]
    assert [line.partition(":")[0] for line in told] == ["accuracy", "routing"]


@pytest.mark.acceptance
def test_a_page_that_may_not_be_read_stops_no_measurement(desk: Desk) -> None:
    """The page has the verdict of the promotion, which the role could not read."""
    with pytest.raises(NotInMlflow, match="are in the store, but not in MLflow") as caught:
        desk.measurer.measure(V1, MeasureOptions(only=("accuracy", "routing"), data=desk.images))
    assert len(caught.value.answer) == 2  # type: ignore[arg-type]
    assert [one.benchmark for one in desk.admin.evidence(V1)] == ["accuracy", "routing"]
