"""Version management for LoRA adapters on DINO backbones."""
