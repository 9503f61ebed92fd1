"""Images, and a bundle that was fitted to them."""

from __future__ import annotations

import pytest

from adapters.answer.loaded import LoadedVersion
from adapters.answer.loading import load_bundle
from adapters.backbone.locate import TINY
from adapters.fitting.fit import FitReport, fit
from adapters.fitting.image_folder import ImageFolder
from tests.support.bundles import read_bundle
from tests.support.coloured_images import write_blotches

BACKBONE = TINY / "dinov3-tiny"


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> ImageFolder:
    return ImageFolder(write_blotches(tmp_path_factory.mktemp("images")))


@pytest.fixture(scope="session")
def report(data: ImageFolder, tmp_path_factory: pytest.TempPathFactory) -> FitReport:
    return fit(data, BACKBONE, tmp_path_factory.mktemp("fit") / "bundle")


@pytest.fixture(scope="session")
def version(report: FitReport) -> LoadedVersion:
    return load_bundle(read_bundle(report.folder))
