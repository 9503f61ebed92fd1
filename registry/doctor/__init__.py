"""`ulora doctor`: look at every part once, say what is wrong and what to run.

Writes nothing but the store's probe; with `read_data` also this machine's note of what it has read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from registry.answers import Finding
from registry.api import Registry
from registry.doctor import around, serving, storage
from registry.errors import UloraError
from registry.names import CHANNELS

Check = Callable[[Registry], Iterator[Finding]]


def examine(registry: Registry, *, read_data: bool = False) -> list[Finding]:
    """All findings, in the order in which trouble would spread.

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
                break  # everything else needs it
        except Exception as error:  # one part that breaks in a new way must not hide the others
            findings.append(Finding(subject, "error", f"unexpected {type(error).__name__}: {error}"))
    return findings


def _checks(read_data: bool) -> dict[str, Check]:
    return {
        "store": storage.check_store,
        "rights": storage.check_rights,
        "bucket": storage.check_bucket,
        "clock": storage.check_clock,
        **{name: serving.check_channel(name) for name in CHANNELS},
        "rollback target": serving.read_now if read_data else serving.check_last_read,
        "notes": serving.check_notes,
        "garbage": storage.check_garbage,
        "replicas": serving.check_replicas,
        "MLflow": around.check_catalog,
        "git tags": around.check_tags,
        "restore": around.check_restore,
        "machine": around.check_machine,
    }
