"""Make MLflow hold every version and show what the channels serve, and answer the requests made there."""

from __future__ import annotations

from registry.answers import Change
from registry.catalog.reconciler import Reconciler
from registry.catalog.request_decisions import RequestDecider
from registry.catalog.views import ChannelViews
from registry.channels.channel import PromoteOptions
from registry.machine import identity
from registry.usecases.mirror import log_version
from registry.usecases.promote import promote
from registry.usecases.scripts import script_of
from registry.wiring import Wiring


def reconciler(wiring: Wiring, *, adopt: bool = False) -> Reconciler:
    """The reconciler of a model; see `Registry.reconciler`."""
    on_request = wiring.acting_as(f"a request in MLflow, by way of {wiring.settings.who}"[: identity.MAX_WHO])

    def promote_requested(version: str, channel: str, options: PromoteOptions, *, reason: str) -> Change:
        return promote(on_request, version, channel, options, reason=reason)

    return Reconciler(
        wiring.model, wiring.catalog, wiring.bindings, wiring.bindings.names, wiring.ledger,
        ChannelViews(wiring.channel),
        decider=RequestDecider(wiring.settings.who, wiring.channel, wiring.bindings, promote_requested),
        log=lambda binding: log_version(wiring, binding, None),
        script=lambda pointer: script_of(wiring, wiring.bindings.manifest(pointer), "production"),
        forgotten=lambda: set(wiring.forgotten.versions()),
        unmanaged="adopt" if adopt else "leave",
    )  # fmt: skip
