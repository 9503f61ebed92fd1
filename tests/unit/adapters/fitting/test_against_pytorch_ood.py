"""Our measures and our detector agree with those of pytorch-ood, where it is installed.

    pip install --no-deps pytorch-ood

Without `--no-deps` it brings torchvision, which only its models and data sets use.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
from scipy.stats import spearmanr

from adapters.answer.ood import distances
from adapters.fitting.mahalanobis import fit_classes
from adapters.fitting.ood_metrics import aupr_in, aupr_out, auroc, fpr_at_95_tpr

Import = Callable[[str], Any]


@pytest.fixture
def module() -> Iterator[Import]:
    """Imports a module of pytorch-ood past the `__init__` of its packages, which import torchvision."""
    found = importlib.util.find_spec("pytorch_ood")
    if found is None:
        pytest.skip("pytorch-ood is not installed: pip install --no-deps pytorch-ood")
    for name in ("pytorch_ood", "pytorch_ood.detector"):
        folder = name.removeprefix("pytorch_ood").replace(".", "/")
        package = ModuleType(name)
        package.__path__ = [place + folder for place in found.submodule_search_locations or ()]
        sys.modules[name] = package
    yield lambda name: importlib.import_module(f"pytorch_ood.{name}")
    for name in [name for name in sys.modules if name.split(".")[0] == "pytorch_ood"]:
        del sys.modules[name]


def scores(n: int, m: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of n images inside and m outside, with ties."""
    random = torch.Generator().manual_seed(0)
    inside, outside = torch.randn(n, generator=random), torch.randn(m, generator=random) + 2
    return inside.mul(20).round() / 20, outside.mul(20).round() / 20


def test_measures(module: Import) -> None:
    inside, outside = scores(400, 300)
    everything, labels = torch.cat([inside, outside]), torch.cat([torch.zeros(400), -torch.ones(300)]).long()

    def theirs(name: str, **more: object) -> float:
        (value,) = getattr(module("metrics"), name)(**more).update(everything, labels).compute().values()
        return float(value)

    ours = inside.tolist(), outside.tolist()
    assert auroc(*ours) == pytest.approx(theirs("AUROC"), abs=1e-6)
    # They interpolate precision between points, we do not: close, not the same.
    assert aupr_in(*ours) == pytest.approx(theirs("AUPR", positive="id"), abs=2e-3)
    assert aupr_out(*ours) == pytest.approx(theirs("AUPR", positive="ood"), abs=2e-3)


def test_fpr_at_95_tpr_is_theirs_of_the_mirrored_scores(module: Import) -> None:
    """Their positive class is out-of-distribution, ours in-distribution."""
    inside, outside = scores(400, 300)
    mirrored, labels = -torch.cat([inside, outside]), torch.cat([-torch.ones(400), torch.zeros(300)]).long()
    theirs = module("metrics").FPRAtTPR(0.95).update(mirrored, labels).compute()["FPR95TPR"]
    assert fpr_at_95_tpr(inside.tolist(), outside.tolist()) == pytest.approx(float(theirs), abs=1e-6)


def test_distances(module: Import) -> None:
    """The same from the same statistics; ours shrink the covariance, which hardly changes the order."""
    random = torch.Generator().manual_seed(0)
    classes = torch.arange(2000) % 3
    features = 6 * torch.eye(8)[classes] + torch.linspace(0.2, 2, 8) * torch.randn(2000, 8, generator=random)
    strangers = 3 * torch.randn(500, 8, generator=random)
    both = torch.nn.functional.normalize(torch.cat([features, strangers]), dim=1)

    theirs = module("detector.mahalanobis").Mahalanobis(None).fit_features(both[:2000], classes)
    expected = theirs.predict_features(both)
    nearest = theirs._calc_gaussian_scores(both).argmax(dim=1)
    same = distances(both, nearest, theirs.mu, torch.linalg.cholesky(theirs.precision))
    assert torch.allclose(same.square() / 2, expected, rtol=1e-3)

    means, whitening = fit_classes(features, classes, 3)
    ours = distances(both, nearest, means, whitening)
    assert torch.allclose(means, theirs.mu, atol=1e-5)
    assert spearmanr(ours, expected).statistic > 0.999
    inside, outside = expected[:2000].tolist(), expected[2000:].tolist()
    assert auroc(ours[:2000].tolist(), ours[2000:].tolist()) == pytest.approx(auroc(inside, outside), abs=1e-3)
