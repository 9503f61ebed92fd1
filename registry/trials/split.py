"""Who sees the canary: the same choice on every replica, from a trial's salt and a request's key alone."""

from __future__ import annotations

import hashlib

UNITS = 65_536
"""Units of a trial: what is counted, each once. Several keys may share one."""
_BUCKETS = 10_000
"""Shares of keys are told apart to a hundredth of a percent."""


def unit_of(salt: str, key: str) -> int:
    """The unit of a key, 0 to 65,535: sha256(salt NUL key) as a number, modulo 65,536."""
    return int.from_bytes(_digest(salt, key)[-2:], "big")


def is_canary(salt: str, key: str, percent: float) -> bool:
    """Whether the canary answers a key: the first 8 bytes of sha256(salt NUL key) modulo 10,000 are below
    100 × percent. A larger share holds the keys of every smaller one."""
    return _bucket(_digest(salt, key)) < _buckets(percent)


def is_shadowed(salt: str, key: str, percent: float) -> bool:
    """Whether both versions compute a key's requests in a shadow trial, chosen apart from `is_canary` and `unit_of`."""
    return _bucket(_digest(salt, f"shadow\0{key}")) < _buckets(percent)


def _digest(salt: str, key: str) -> bytes:
    return hashlib.sha256(f"{salt}\0{key}".encode("utf-8", "surrogatepass")).digest()


def _bucket(digest: bytes) -> int:
    return int.from_bytes(digest[:8], "big") % _BUCKETS


def _buckets(percent: float) -> float:
    """100 × percent as it is in decimal: 100 × 0.07 is a little more than 7 in binary, and would take in bucket 7."""
    return round(100 * percent, 6)
