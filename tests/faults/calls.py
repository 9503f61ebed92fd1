"""Names for calls: the same for the same step of a command, whatever the test's prefix, digests, ids and times are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

_ID = re.compile(r"^(m-)?[0-9a-f]{32}$|^\d+$")
_API = re.compile(r"^/(api|ajax-api)/2\.0/(mlflow/|mlflow-artifacts/)?")
_BELOW_A_MODEL = {"channels": 2, "replicas": 2, "observations": 2, "decisions": 2, "incidents": 2, "passed": 2}
"""How many folders below the model make the kind of a key; one, where nothing is said."""


@dataclass(frozen=True, order=True)
class Call:
    """The n-th call of a command that has this name. `server` is `s3`, `mlflow` or, for a change of a file, `disk`."""

    server: str
    name: str
    n: int

    def __str__(self) -> str:
        return f"{self.server} {self.name} #{self.n}"


def numbered(server: str, names: Iterable[str]) -> list[Call]:
    """Calls in order, each with its number among those of its name."""
    seen: Counter[str] = Counter()
    calls = []
    for name in names:
        seen[name] += 1
        calls.append(Call(server, name, seen[name]))
    return calls


def s3_name(method: str, path: str) -> str:
    """`PUT channels/production`, `LIST versions`, `HEAD blobs`."""
    parts = urlsplit(path)
    query = parse_qs(parts.query, keep_blank_values=True)
    if "list-type" in query:
        return f"LIST {_kind(query.get('prefix', [''])[0].partition('/')[2])}"
    extra = "".join(f"?{name}" for name in sorted(query) if name in ("uploads", "uploadId", "delete", "versioning"))
    return f"{method} {_kind('/'.join(parts.path.split('/')[3:]))}{extra}"


def mlflow_name(method: str, path: str) -> str:
    """`POST registered-models/create`, `PUT artifacts/*/models/*/artifacts/MLmodel`."""
    place = _API.sub("", urlsplit(path).path)
    return f"{method} {'/'.join('*' if _ID.match(part) else part for part in place.split('/'))}"


def _kind(key: str) -> str:
    """The kind of a key relative to the store's prefix: what stays when names and digests are left out."""
    folders = key.split("/")[:-1]
    if not folders:
        return key or "(all)"
    if folders[0] != "models" or len(folders) < 3:
        return folders[0]
    below = folders[2:]
    return "/".join(below[: _BELOW_A_MODEL.get(below[0], 1)])
