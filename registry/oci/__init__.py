"""Versions in OCI registries: sent as ModelPack artifacts, and read back. A registry is a peer that nobody trusts."""
