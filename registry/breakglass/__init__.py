"""Rollback without this package: a script that needs only Python and boto3, and the code that writes it."""
