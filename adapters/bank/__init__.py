"""The LoRA adapters of all resident versions on one frozen backbone."""
