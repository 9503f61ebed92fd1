"""Trials: who sees the canary, what replicas count, and the statistics of it; no I/O."""
