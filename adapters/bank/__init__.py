"""The LoRA weights of all loaded versions, stacked in memory, and how they are read from PEFT folders and applied."""
