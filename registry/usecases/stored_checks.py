"""The checks of a version before it is deployed that only read: its files, its recorded outputs, the gates."""

from __future__ import annotations

from registry.errors import CorruptBlob, NotTrusted
from registry.evidence.check_lines import check_summary
from registry.formats.counts import counted
from registry.integrity.verify import SIGNATURE
from registry.serving.loaders import TellsWeights
from registry.tree.layout import FILES_FLAVOR
from registry.usecases.check_results import CheckPassed, CheckSkipped
from registry.usecases.promote import promote
from registry.usecases.serve import load
from registry.usecases.verify import verify_or_stop
from registry.usecases.version_test_options import TestOptions
from registry.versions.manifest import Manifest
from registry.wiring import Wiring

_SHOWN = 5


def check_files(wiring: Wiring, manifest: Manifest) -> CheckPassed:
    """Check that the store holds every file of a version, by its checksums, and that it is trusted and loadable.

    Raises:
        CorruptBlob, NotTrusted: it does not, or is not.
        StoreUnreachable: the store does not answer, or fails for a file.
    """
    found = verify_or_stop(wiring, manifest.version)
    if found.ok:
        return CheckPassed(counted(found.files, "file") + (f"; {found.note}" if found.note else ""))
    named = "; ".join(f"{bad.path}: {bad.problem}" for bad in found.bad[:_SHOWN]) + " …" * (len(found.bad) > _SHOWN)
    kind = NotTrusted if all(bad.path == SIGNATURE for bad in found.bad) else CorruptBlob
    raise kind(
        f"{counted(len(found.bad), 'file')} bad: {named}", hint=f"`ulora verify {manifest.version}` names every file"
    )


def check_golden(wiring: Wiring, manifest: Manifest, options: TestOptions) -> CheckPassed:
    """Load a version, which checks its weights and its recorded outputs.

    Raises:
        CheckSkipped: it has no model, or no recorded outputs.
        SelfTestFailed, LoadFailed, BackboneNotFound, MissingDependency, …: see `Registry.load`.
    """
    if manifest.flavor == FILES_FLAVOR:
        raise CheckSkipped("a snapshot of files has no model to load")
    loaded = load(wiring, manifest.version, device=options.device, runtime=options.runtime)
    where = f"on {options.device} by {loaded.runtime}"
    if isinstance(loaded, TellsWeights) and not loaded.golden_sha256:
        raise CheckSkipped(f"it loads {where}, and has no recorded outputs to compare with", loaded.runtime)
    return CheckPassed(f"the recorded outputs are reproduced {where}", runtime=loaded.runtime)


def check_gates(wiring: Wiring, manifest: Manifest, channel: str) -> CheckPassed:
    """Judge whether a channel would take a version, as `ulora promote --dry-run` does.

    Raises:
        GateRefused, NotNow, IntegrityError, …: see `Registry.promote`.
    """
    change = promote(wiring, manifest.version, channel, dry_run=True)
    if change.verdict is None:
        return CheckPassed(f"{channel} serves it already")
    return CheckPassed(f"{channel} would take it: {check_summary(change.verdict)}")
