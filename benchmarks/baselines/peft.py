"""PEFT: adapters injected into the model's modules; one of them is active, or one per row by `adapter_names=`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import PeftModel
from peft.utils.hotswap import hotswap_adapter

from adapters.backbone.build import new_model
from registry.versions.manifest import BackboneRef


class PeftBaseline:
    """A backbone with adapters, on weights that it shares with other users of this backbone."""

    def __init__(self, ref: BackboneRef, backbone: Path, adapters: Mapping[str, Path]) -> None:
        """Args:
        backbone: the backbone's folder.
        adapters: name -> PEFT folder, at least one.
        """
        first, *others = adapters.items()
        self._depth = int(ref.config["num_hidden_layers"])
        model = new_model(ref, folders=[backbone])
        self.model = PeftModel.from_pretrained(model, str(first[1]), adapter_name=first[0]).eval()
        for name, folder in others:
            self.model.load_adapter(str(folder), adapter_name=name)

    @torch.no_grad()
    def mixed(self, pixels: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        """The last block's CLS tokens [N, D], normalised; each row uses the adapter that is named for it."""
        tokens: torch.Tensor = self.model(pixel_values=pixels, adapter_names=list(names)).last_hidden_state
        return tokens[:, 0]

    @torch.no_grad()
    def single(self, pixels: torch.Tensor) -> torch.Tensor:
        """The same with the active adapter for all rows."""
        tokens: torch.Tensor = self.model(pixel_values=pixels).last_hidden_state
        return tokens[:, 0]

    def activate(self, name: str) -> None:
        """Activate a loaded adapter."""
        self.model.set_adapter(name)

    def load(self, name: str, folder: Path) -> None:
        """Load one more adapter."""
        self.model.load_adapter(str(folder), adapter_name=name)

    def unload(self, name: str) -> None:
        """Delete an adapter."""
        self.model.delete_adapter(name)

    def swap(self, name: str, folder: Path) -> None:
        """Overwrite an adapter's weights in place with those of a folder."""
        hotswap_adapter(self.model, str(folder), adapter_name=name)
