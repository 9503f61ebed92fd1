"""Stored formats: canonical JSON, and documents that are parsed strictly."""
