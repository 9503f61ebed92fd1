"""Make MLflow hold every version and show what the channels serve, and answer the requests made there."""

from __future__ import annotations

from registry.answers import Change
from registry.catalog.reconciler import Reconciler
from registry.catalog.request_decisions import RequestDecider
from registry.catalog.views import ChannelViews
from registry.channels.channel import PromoteOptions, RollbackOptions
from registry.evidence.policy import load_policy
from registry.machine import identity
from registry.usecases.mirror import log_version
from registry.usecases.pages import RECENT, Pages
from registry.usecases.promote import promote
from registry.usecases.rollback import rollback
from registry.usecases.scripts import script_of
from registry.usecases.version_report_page import report_files
from registry.wiring import Wiring


def reconciler(wiring: Wiring, *, adopt: bool = False) -> Reconciler:
    """The reconciler of a model; see `Registry.reconciler`."""
    on_request = wiring.acting_as(f"a request in MLflow, by way of {wiring.settings.who}"[: identity.MAX_WHO])

    def promote_requested(version: str, channel: str, options: PromoteOptions, *, reason: str) -> Change:
        return promote(on_request, version, channel, options, reason=reason)

    def roll_back_requested(channel: str, options: RollbackOptions, *, reason: str) -> Change:
        wiring.check_writable()
        return rollback(on_request, channel, options, reason=reason, only=(), dry_run=False)

    def may_roll_back(channel: str) -> bool:
        return load_policy(wiring.settings.policy).may_roll_back_by_request(channel)

    decider = RequestDecider(
        wiring.settings.who, wiring.channel, wiring.bindings, promote_requested, roll_back_requested, may_roll_back
    )
    return Reconciler(
        wiring.model, wiring.catalog, wiring.bindings, wiring.bindings.names,
        ChannelViews(wiring.channel), decider,
        pages=lambda quick: Pages.read(wiring, RECENT if quick else None),
        log=lambda binding: log_version(wiring, binding, None),
        script=lambda pointer: script_of(wiring, wiring.bindings.manifest(pointer), "production"),
        report=lambda binding: report_files(wiring, binding.version),
        forgotten=lambda: set(wiring.forgotten.versions()),
        unmanaged="adopt" if adopt else "leave",
    )  # fmt: skip
