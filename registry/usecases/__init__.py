"""What the methods of `Registry` do, a module for each subject. Every function takes the wiring first, and is silent.

A module is imported when it is first used, as `usecases.promote`.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry.usecases import apply as apply
    from registry.usecases import approve as approve
    from registry.usecases import audit as audit
    from registry.usecases import backbones as backbones
    from registry.usecases import canary as canary
    from registry.usecases import checklist as checklist
    from registry.usecases import create as create
    from registry.usecases import diff as diff
    from registry.usecases import judge as judge
    from registry.usecases import measure as measure
    from registry.usecases import mirror as mirror
    from registry.usecases import pages as pages
    from registry.usecases import predict as predict
    from registry.usecases import promote as promote
    from registry.usecases import reconcile as reconcile
    from registry.usecases import restore as restore
    from registry.usecases import retention as retention
    from registry.usecases import rollback as rollback
    from registry.usecases import scripts as scripts
    from registry.usecases import serve as serve
    from registry.usecases import sign as sign
    from registry.usecases import status as status
    from registry.usecases import verify as verify
    from registry.usecases import version_report as version_report
    from registry.usecases import version_test as version_test


def __getattr__(name: str) -> ModuleType:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return importlib.import_module(f"{__name__}.{name}")
