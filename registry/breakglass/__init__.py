"""The rollback without this package: the script, and what writes it."""
