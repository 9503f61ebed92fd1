"""What a `Registry` is made of: its settings, and the parts of the model that tools built on this package use."""

from __future__ import annotations

from typing import TYPE_CHECKING

from registry.channels.channel import Channel
from registry.settings import Settings
from registry.wiring import Wiring

if TYPE_CHECKING:
    from registry.catalog.client import Catalog
    from registry.store.blobs import Blobs
    from registry.store.objects import ObjectStore
    from registry.versions.bindings import Bindings


class RegistryParts:
    """The parts of one model, each opened when it is first used. Those that are not here are in `wiring`."""

    def __init__(
        self, model: str | None = None, *, store: str | None = None, tracking_uri: str | None = None,
        settings: Settings | None = None,
    ) -> None:  # fmt: skip
        """What is left out comes from the environment or `ulora.toml`; see `registry.settings`.

        Raises:
            BadSetting, BadInput: a setting is missing or invalid.
        """
        self.wiring = Wiring(settings or Settings.load(model=model, store=store, tracking_uri=tracking_uri))
        self.settings = self.wiring.settings
        self.model = self.settings.model

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.model!r}, store={self.settings.store!r})"

    def __dir__(self) -> list[str]:
        """What people do, without the parts: completion in a notebook shows these."""
        parts = {name for name in vars(RegistryParts) if not name.startswith("_")}
        return sorted({*super().__dir__()} - parts - {"wiring"})

    @property
    def store(self) -> ObjectStore:
        """The objects of the store."""
        return self.wiring.store

    @property
    def blobs(self) -> Blobs:
        """The blobs of the store, read through this machine's cache."""
        return self.wiring.blobs

    @property
    def bindings(self) -> Bindings:
        """The names of the model's versions, and the manifests that they are bound to."""
        return self.wiring.bindings

    @property
    def catalog(self) -> Catalog:
        """The MLflow server. Every use of it may raise `CatalogUnreachable`."""
        return self.wiring.catalog

    def channel(self, name: str) -> Channel:
        """The log of a channel. Raises BadInput for an invalid name."""
        return self.wiring.channel(name)
