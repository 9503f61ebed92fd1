"""The layout of `models/phase*_adapter/`: a linear classifier on CLS and a Mahalanobis detector.

Published descriptions differ in the value that the detector compares with its thresholds. For a file with `mahalanobis`
it is the distance (a square root) to its mean with its covariance. A file with only `class_stds` comes from code that
compared squared distances to each class's prototype, regularised by max(1e-6, 1e-4 times the mean variance). A class
without a threshold gets 25, as in that code. The distance to the nearest prototype is not used, because no file has its
threshold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from adapters.answer.ood_imported import SHARED, SQUARED, PrototypeDetector
from adapters.importing.layouts import CLASSIFIER, META, OOD_COMPONENTS, AdapterFolder
from adapters.importing.untrusted_files import as_number, as_tensor, by_class, read_pickle
from registry.errors import BadBundle, BadWeights

DEFAULT_THRESHOLD = 25.0


def check_sizes(adapter: AdapterFolder, weight: torch.Tensor) -> None:
    """Check the sizes of the classifier that `adapter_meta.json` states.

    Raises:
        BadBundle: when they differ from `classifier.pth`.
    """
    for name, actual in (("classifier_output_size", weight.shape[0]), ("classifier_input_size", weight.shape[1])):
        stated = adapter.meta.get(name)
        if stated is not None and stated != actual:
            raise BadBundle(
                f"{adapter.folder / META} says {name} {str(stated)[:20]}, but {CLASSIFIER} has {actual}",
                hint="nothing was created",
            )


def read_detector(
    adapter: AdapterFolder, labels: Sequence[str], inputs: int
) -> tuple[PrototypeDetector | None, dict[str, torch.Tensor], dict[str, Any], list[str]]:
    """Read the detector in `ood_components.pt`.

    Returns:
        The detector, None without the file; tensors and other fields of the file that are not in it; notes for people.

    Raises:
        BadBundle, BadWeights: when the file is malformed or does not fit the classifier.
    """
    path = adapter.folder / OOD_COMPONENTS
    if not path.is_file():
        return None, {}, {}, ["it has no ood_components.pt: no image will be flagged"]
    content = read_pickle(path)
    if not isinstance(content, Mapping):
        raise BadWeights(f"{path} is not a dictionary", hint="nothing was created")
    rest = {str(name): value for name, value in content.items()}
    named = "ood_thresholds" if rest.get("thresholds") is None else "thresholds"
    stated = rest.get(named)
    thresholds, notes = _thresholds(stated, labels, str(path))
    if not (isinstance(stated, Mapping) and "threshold" in stated):
        rest.pop(named)
    mahalanobis = rest.pop("mahalanobis", None)
    if mahalanobis is not None:
        detector = _shared(mahalanobis, thresholds, labels, str(path), inputs)
        rest["mahalanobis"] = {name: value for name, value in mahalanobis.items() if name not in _USED}
    else:
        detector = _diagonal(rest, thresholds, labels, str(path))
    if detector.inputs != inputs:
        raise BadBundle(
            f"{path} takes features {detector.inputs} wide, but the classifier takes {inputs}",
            hint="nothing was created",
        )
    return detector, *_kept(rest), notes


_USED = {"mean", "inv_covariance"}


def _shared(stated: Any, thresholds: torch.Tensor, labels: Sequence[str], path: str, inputs: int) -> PrototypeDetector:
    if not isinstance(stated, Mapping):
        raise BadBundle(f"{path}: mahalanobis is not a dictionary", hint="nothing was created")
    mean = as_tensor(stated.get("mean"), f"{path}: mahalanobis.mean")
    centres = mean.reshape(1, -1) if mean.ndim == 1 else mean
    if "inv_covariance" in stated:
        precision = as_tensor(stated["inv_covariance"], f"{path}: mahalanobis.inv_covariance")
    else:
        covariance = as_tensor(stated.get("covariance"), f"{path}: mahalanobis.covariance")
        fits = covariance.shape == (inputs, inputs)  # else it may be of any size, and take hours
        precision = torch.linalg.pinv(covariance.double()).float() if fits else covariance
    is_table = centres.ndim == 2 and len(centres) in (1, len(labels))
    if not is_table or precision.shape != (centres.shape[1], centres.shape[1]):
        raise BadBundle(
            f"{path}: a mean of {tuple(mean.shape)} and an inverse covariance of {tuple(precision.shape)} do not fit "
            f"each other or the {len(labels)} classes",
            hint="nothing was created",
        )
    return PrototypeDetector(tuple(labels), SHARED, centres, precision, thresholds)


def _diagonal(stated: dict[str, Any], thresholds: torch.Tensor, labels: Sequence[str], path: str) -> PrototypeDetector:
    prototypes = as_tensor(stated.get("prototypes"), f"{path}: prototypes")
    name = "class_stds" if "class_stds" in stated else "class_std"
    stds = stated.get(name)
    if prototypes.ndim != 2 or len(prototypes) != len(labels) or not isinstance(stds, Mapping):
        raise BadBundle(
            f"{path} has neither mahalanobis nor prototypes and class_stds for its {len(labels)} classes",
            hint="nothing was created",
        )
    precision = torch.ones_like(prototypes)  # the value that the system uses for a class without deviations
    for number, std in by_class(stds, labels, f"{path}: {name}").items():
        what = f"{path}: {name}.{labels[number]}"
        deviations = as_tensor(std, what)
        if deviations.shape not in ((), (1,), prototypes.shape[1:]):
            raise BadBundle(f"{what} is not a number for each of {prototypes.shape[1]}", hint="nothing was created")
        variance = deviations.double().square().expand(prototypes.shape[1])
        precision[number] = (1 / (variance + max(1e-6, 1e-4 * float(variance.mean())))).float()
    for used in ("prototypes", name):
        stated.pop(used)
    return PrototypeDetector(tuple(labels), SQUARED, prototypes, precision, thresholds)


def _thresholds(stated: Any, labels: Sequence[str], path: str) -> tuple[torch.Tensor, list[str]]:
    """One per class: from a dictionary by number or label, a list in the order of classes, or one number."""
    if isinstance(stated, list) or (torch.is_tensor(stated) and stated.ndim == 1):
        stated = dict(enumerate(stated))
    if isinstance(stated, Mapping) and "threshold" in stated and "threshold" not in labels:
        stated = stated["threshold"]
    if not isinstance(stated, Mapping):
        value = as_number(stated, f"{path}: thresholds")
        found: dict[int, Any] = dict.fromkeys(range(len(labels)), value)
    else:
        found = by_class(stated, labels, f"{path}: a threshold")
    values = [
        as_number(found.get(number, DEFAULT_THRESHOLD), f"{path}: the threshold of {label}")
        for number, label in enumerate(labels)
    ]
    if min(values) <= 0:
        raise BadBundle(f"{path} has a threshold that is not positive", hint="nothing was created")
    missing = [label for number, label in enumerate(labels) if number not in found]
    notes = [f"{OOD_COMPONENTS} has no threshold for {', '.join(missing)[:200]}: {DEFAULT_THRESHOLD:g} is used"]
    return torch.tensor(values), notes if missing else []


def _kept(rest: Mapping[str, Any]) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """The rest of the file: its tensors by dotted names, and its other fields, with null for each tensor."""
    tensors: dict[str, torch.Tensor] = {}

    def fields(value: Any, name: str) -> Any:
        if isinstance(value, Mapping):
            return {str(key): fields(item, f"{name}.{key}".lstrip(".")) for key, item in value.items()}
        if isinstance(value, list):
            return [fields(item, f"{name}.{number}") for number, item in enumerate(value)]
        if not torch.is_tensor(value):
            return value
        if name in tensors:
            raise BadWeights(f"{OOD_COMPONENTS} has two tensors called {name[:200]!r}", hint="nothing was created")
        tensors[name] = value
        return None

    plain: dict[str, Any] = fields(rest, "")
    return tensors, plain
