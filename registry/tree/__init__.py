"""A working tree on disk: restore a version into it, switch it, take a snapshot of it."""
