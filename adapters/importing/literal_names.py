"""Check a bundle's preprocessing and each `adapter_config.json`, and replace the patterns in these by the names that
they match, before it becomes a version.

`literal_documents` is the entry point of the group `ulora.bundles`. So patterns are matched once, when a version is
created, and not by each replica that loads it. It imports the torch side only for a bundle that has patterns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from adapters.backbone.patches import check_preprocessing
from adapters.bank.match_patterns import is_literal, patterns_of
from adapters.bank.peft_fields import check_fields, is_config
from adapters.bank.peft_values import check_values
from adapters.bundle import ADAPTER_CONFIG, ADAPTER_WEIGHTS, PREPROCESSING, BundleDocuments
from registry.errors import BadWeights, first_line
from registry.formats import canonical
from registry.formats.local_file import LocalFile
from registry.versions.manifest import BackboneRef


def literal_documents(files: Mapping[str, LocalFile], backbone: BackboneRef | None) -> dict[str, bytes]:
    """The documents to store in place of a bundle's: path -> bytes. Empty if no adapter has patterns.

    Args:
        files: path in the bundle -> the file on this disk.
        backbone: what the adapters run on.

    Raises:
        BadWeights: when a configuration has a field or value that loading would refuse, its patterns can't be matched
            in reasonable time, or they match no module.
        BadManifest, MissingBlob: when images would have too many patches, or a document, that of the backbone, or a
            file of the adapter is malformed or missing.
        LoadFailed: when no process can be started to match them.
    """
    bundle = BundleDocuments(files)
    for path in files:
        if path.endswith(".json") and path.startswith(("adapters/", "router/")):
            bundle.document(path)  # a replica would find out that it is none
    if backbone is not None and PREPROCESSING in bundle:
        check_preprocessing(bundle.document(PREPROCESSING), backbone.config)
    configs = {path: bundle.document(path) for path in files if is_config(path)}
    for path, document in configs.items():
        check_fields(document, path)
        check_values(document, path)
    found = {path: document for path, document in configs.items() if not is_literal(patterns_of(document))}
    if backbone is None or not found:
        return {}
    return {path: _literal(bundle, path, document, backbone) for path, document in found.items()}


def _literal(bundle: BundleDocuments, path: str, document: Mapping[str, Any], backbone: BackboneRef) -> bytes:
    from adapters.backbone.build import shapes
    from adapters.backbone.families import family_named
    from adapters.bank.peft_config import read_config, resolved
    from adapters.bank.peft_files import modules_of

    family = family_named(backbone.family)
    stored = modules_of(bundle.dtypes(path.replace(ADAPTER_CONFIG, ADAPTER_WEIGHTS)))
    config = read_config(document, path, stored, family, family.linears_of(shapes(backbone)))
    if not config.targets:
        raise BadWeights(
            f"{path}: its patterns match no module of {backbone.name}", hint="write the modules' names as a list"
        )
    try:
        return canonical.encode(resolved(document, config, config.names)) + b"\n"
    except ValueError as error:  # such as half of a pair that stands for one letter
        raise BadWeights(f"{path} can't be written as JSON: {first_line(error)}") from error
