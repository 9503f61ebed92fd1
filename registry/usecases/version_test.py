"""Test a version before it is deployed, or what is deployed, and keep the result as evidence."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from registry.catalog.runs import EvidenceRun
from registry.errors import (
    NotInMlflow,
    ReplicaDenied,
    ReplicaUnreachable,
    StoreDenied,
    StoreUnreachable,
    UloraError,
    first_line,
)
from registry.evidence.results import Evidence
from registry.formats import canonical
from registry.formats.counts import counted
from registry.names import VersionName, check_channel
from registry.progress import Say
from registry.usecases.check_results import (
    DEPLOYED,
    STORED,
    CheckPassed,
    CheckResult,
    CheckSkipped,
    VersionTest,
    evidence_of,
    run_check,
)
from registry.usecases.deployed_checks import DeployedChecks
from registry.usecases.drill import plan_drill, run_drill
from registry.usecases.mirror import not_shown, show_version
from registry.usecases.replica_client import ReplicaClient
from registry.usecases.stored_checks import check_files, check_gates, check_golden
from registry.usecases.team_tests import check_folder, files_of, run_team_tests
from registry.usecases.version_test_options import TestOptions
from registry.versions.bindings import Binding
from registry.versions.manifest import Manifest
from registry.wiring import Wiring

Checks = Mapping[str, Callable[[], CheckPassed]]
RECORD = "record"
"""The step that keeps the evidence, in the list of checks."""


def test(wiring: Wiring, version: str, options: TestOptions | None, *, dry_run: bool, say: Say) -> VersionTest:
    """Test a version; see `Registry.test`."""
    options = options or TestOptions()
    check_channel(options.channel)
    if options.tests:
        check_folder(options.tests)
    binding = wiring.bindings.get(VersionName.parse(version))
    run = _TestRun(wiring, binding, wiring.bindings.manifest(binding.pointer), options, dry_run, say)
    if options.deployed is None:
        return run.of_the_version()
    with closing(ReplicaClient(options.deployed, options.token)) as client:
        return run.of_what_is_deployed(client)


@dataclass
class _TestRun:
    """One test of one version."""

    wiring: Wiring
    binding: Binding
    manifest: Manifest
    options: TestOptions
    dry_run: bool
    say: Say
    results: list[CheckResult] = field(default_factory=list)
    evidence: str | None = None

    def of_the_version(self) -> VersionTest:
        """Before it is deployed. The gates are asked last, as they may ask for the evidence of the checks before."""
        folder = self.options.tests
        checks: dict[str, Callable[[], CheckPassed]] = {
            "verify": lambda: check_files(self.wiring, self.manifest),
            "golden": lambda: check_golden(self.wiring, self.manifest, self.options),
        }
        if folder:
            checks["team"] = lambda: self._team(folder)
        if self.options.drill:
            checks["drill"] = self._drill
        self._make(checks)
        self._keep(STORED, self._about_files(folder) if folder else {})
        self._make({"gates": lambda: check_gates(self.wiring, self.manifest, self.options.channel)})
        return self._report("")

    def of_what_is_deployed(self, client: ReplicaClient) -> VersionTest:
        """Behind a URL."""
        checks = DeployedChecks(self.wiring, self.binding, self.manifest, client, self.options)
        self._make(checks.named())
        if not (isinstance(self.results[0].error, ReplicaUnreachable) or self._has(ReplicaDenied)):
            # else nothing is known of the version
            self._keep(DEPLOYED, {"url": client.url[:200]})
        return self._report(client.url)

    def _make(self, checks: Checks) -> None:
        for name, check in checks.items():
            if missed := self._unreached(name):
                self.results.append(CheckResult(name, "skipped", missed))
            else:
                self.say(f"{name} …")
                self.results.append(run_check(name, check))

    def _unreached(self, name: str) -> str:
        """Why a check is skipped: an earlier one did not reach what it needs, and it would only wait for it, too."""
        if self._has(StoreUnreachable):
            return "the store could not be reached"
        if name != RECORD and self._has(ReplicaUnreachable):
            return "the replica could not be reached"
        if name != RECORD and self._has(ReplicaDenied):
            return "the replica refuses the token" if self.options.token else "the replica asks for a token"
        return ""

    def _has(self, kind: type[UloraError]) -> bool:
        """Whether an earlier check ended with such an error."""
        return any(isinstance(one.error, kind) for one in self.results)

    def _about_files(self, folder: Path) -> dict[str, str]:
        """Which tests of a team ran: evidence of other ones is of other data."""
        files = files_of(folder, self.manifest.version)
        return {"test files": str(len(files)), "tests sha256": canonical.sha256(canonical.encode(files))}

    def _team(self, folder: Path) -> CheckPassed:
        files = counted(len(files_of(folder, self.manifest.version)), "file")
        if self.dry_run:
            raise CheckSkipped(f"would run {files} of {folder}")
        self.say(f"team: {files} of {folder}, {self.options.timeout:g} s at most")
        return run_team_tests(self.wiring, self.manifest, self.options, folder)

    def _drill(self) -> CheckPassed:
        plan = plan_drill(self.wiring, self.manifest)
        if self.dry_run:
            raise CheckSkipped(f"would promote {plan}, and roll it back")
        self.say(f"drill: {plan}")
        return run_drill(self.wiring, plan, self.say)

    def _keep(self, benchmark: str, about: Mapping[str, str]) -> None:
        """Keep the evidence; that it can't be kept is the result of a step of its own."""
        if not self.options.record or self.dry_run:
            return
        computed = next((one.runtime for one in self.results if one.runtime), "unknown")
        runtime = "deployed" if benchmark == DEPLOYED else computed
        device = "deployed" if benchmark == DEPLOYED else self.options.device
        evidence = evidence_of(
            benchmark, self.manifest, self.results, runtime=runtime, device=device, who=self.wiring.settings.who,
            about=about,
        )  # fmt: skip
        if evidence:
            self._make({RECORD: lambda: self._record(evidence)})

    def _record(self, evidence: Evidence) -> CheckPassed:
        self.evidence = self.wiring.ledger.add(evidence)
        if self.wiring.settings.tracking_uri and not self.options.offline:
            try:
                self._show(evidence)
            except (NotInMlflow, StoreDenied) as error:  # the page says more than everybody may read
                self.say(f"{first_line(error)}; {error.hint}")
        return CheckPassed(f"evidence {self.evidence[:12]}")

    def _show(self, evidence: Evidence) -> None:
        """Show it in MLflow.

        Raises:
            NotInMlflow: it does not take it.
        """
        with not_shown(f"the result is in the store, but not in MLflow ({self.manifest.version})", evidence):
            self.wiring.catalog.record_evidence(self.binding, EvidenceRun.of(evidence))
            show_version(self.wiring, self.binding)

    def _report(self, url: str) -> VersionTest:
        names = self.manifest.model, self.manifest.version
        return VersionTest(*names, url, tuple(self.results), self.evidence)
