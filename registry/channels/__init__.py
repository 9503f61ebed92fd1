"""Channels: the records and their rules, the log, the rollback of single components."""
