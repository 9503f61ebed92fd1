"""PEFT: adapters injected into the model's modules, one of them active, or one per row by `adapter_names=`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from peft import PeftModel
from peft.utils.hotswap import hotswap_adapter

from adapters.backbone import backbones
from registry.versions.manifest import BackboneRef


class PeftRival:
    """A backbone with adapters in it, on weights that it shares with whoever else opened this backbone."""

    def __init__(self, ref: BackboneRef, backbone: Path, adapters: Mapping[str, Path]) -> None:
        """Args:
        backbone: the backbone's folder.
        adapters: name -> PEFT folder, at least one.
        """
        first, *others = adapters.items()
        self._depth = int(ref.config["num_hidden_layers"])
        model = backbones.new_model(ref, folders=[backbone])
        self.model = PeftModel.from_pretrained(model, str(first[1]), adapter_name=first[0]).eval()
        for name, folder in others:
            self.model.load_adapter(str(folder), adapter_name=name)

    @torch.no_grad()
    def mixed(self, pixels: torch.Tensor, names: Sequence[str]) -> torch.Tensor:
        """The last block's CLS tokens [N, D], normalised; a row goes through the adapter that is named for it."""
        return self.model(pixel_values=pixels, adapter_names=list(names)).last_hidden_state[:, 0]

    @torch.no_grad()
    def single(self, pixels: torch.Tensor) -> torch.Tensor:
        """The same with the active adapter for all rows."""
        return self.model(pixel_values=pixels).last_hidden_state[:, 0]

    def activate(self, name: str) -> None:
        """Make an adapter that is loaded the active one."""
        self.model.set_adapter(name)

    def load(self, name: str, folder: Path) -> None:
        """Load one more adapter."""
        self.model.load_adapter(str(folder), adapter_name=name)

    def unload(self, name: str) -> None:
        """Forget an adapter."""
        self.model.delete_adapter(name)

    def swap(self, name: str, folder: Path) -> None:
        """Overwrite an adapter's weights in place with those of a folder."""
        hotswap_adapter(self.model, str(folder), adapter_name=name)
