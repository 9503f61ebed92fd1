"""`ulora doctor`: check every part once, and say what is wrong and what to run.

Writes only the store's probe; with `read_data` also this machine's note of what it has read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from registry.answers import Finding
from registry.api import Registry
from registry.doctor import channels, environment, store, versions
from registry.errors import UloraError
from registry.names import CHANNELS

Check = Callable[[Registry], Iterator[Finding]]


def examine(registry: Registry, *, read_data: bool = False) -> list[Finding]:
    """All findings; the parts that others depend on come first.

    Args:
        read_data: read all bytes of what production serves and would roll back to, as should be done daily.
    """
    findings: list[Finding] = []
    for subject, check in _checks(read_data).items():
        try:
            for found in check(registry):
                findings.append(found)
        except UloraError as error:
            findings.append(Finding(subject, "error", str(error), error.hint))
            if subject == "store":
                break  # all other checks need it
        except Exception as error:  # an unexpected error in one check must not hide the others
            findings.append(Finding(subject, "error", f"unexpected {type(error).__name__}: {error}"))
    return findings


def _checks(read_data: bool) -> dict[str, Check]:
    return {
        "store": store.check_store,
        "rights": store.check_rights,
        "bucket": store.check_bucket,
        "clock": store.check_clock,
        **{name: channels.check_channel(name) for name in CHANNELS},
        "rollback target": channels.read_now if read_data else channels.check_last_read,
        "notes": channels.check_notes,
        "adapters": versions.check_loadable,
        "garbage": store.check_garbage,
        "replicas": channels.check_replicas,
        "MLflow": environment.check_catalog,
        "git tags": environment.check_tags,
        "restore": environment.check_restore,
        "machine": environment.check_machine,
    }
