"""A version's files in a folder on disk: restore them, switch between versions, take a snapshot of a project."""
