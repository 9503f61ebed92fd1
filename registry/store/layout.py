"""The only place that spells a key of the store. All keys are relative to the store's PREFIX."""

from __future__ import annotations

import re

FORMAT = 1
"""Of the stores that this release reads and writes, as their `format.json` says."""

FORMAT_KEY = "format.json"
GC_KEY = "gc.json"
MODELS_PREFIX = "models/"
PROBE_PREFIX = "probe/"
BLOBS_PREFIX = "blobs/sha256/"
BACKBONES_PREFIX = "backbones/"

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_RECORD = re.compile(r"[0-9]{13}\.json", re.ASCII)
_NEWEST_FIRST = 10**12
"""Generation n has the key 10^12 - n, so that a listing starts with the newest."""


def stem(key: str) -> str:
    """The last part of a document's key, without `.json`."""
    return key.rpartition("/")[2].removesuffix(".json")


def blob(sha256: str) -> str:
    """Where bytes are stored under their own sha256."""
    return f"{BLOBS_PREFIX}{sha256[:2]}/{sha256}"


def backbone(sha256: str) -> str:
    """The document on the backbone whose weights have this digest. The weights themselves are a blob."""
    return f"{BACKBONES_PREFIX}{sha256}.json"


def model_folder(model: str) -> str:
    """The folder of everything that belongs to one model."""
    return f"{MODELS_PREFIX}{model}/"


def channels(model: str) -> str:
    """The folder of the folders of a model's channels."""
    return f"{model_folder(model)}channels/"


def versions(model: str) -> str:
    """The folder of a model's names."""
    return f"models/{model}/versions/"


def version(model: str, name: str) -> str:
    """The document that binds a name to its manifest."""
    return f"{versions(model)}{name}.json"


def evidence(model: str, version: str, sha256: str = "") -> str:
    """One result of a benchmark, or without a digest the folder of a version's results."""
    return f"models/{model}/evidence/{version}/" + (f"{sha256}.json" if sha256 else "")


def outcomes(model: str, version: str, sha256: str = "") -> str:
    """What a version answered for each image of a measurement, or without a digest the folder of these."""
    return f"models/{model}/outcomes/{version}/" + (f"{sha256}.jsonl.gz" if sha256 else "")


def approval(model: str, version: str, sha256: str = "") -> str:
    """One person's yes to a version, or without a digest the folder of a version's."""
    return f"models/{model}/approvals/{version}/" + (f"{sha256}.json" if sha256 else "")


def tick(model: str, version: str, sha256: str = "") -> str:
    """What a person says of a line of a version's checklist, or without a digest the folder of a version's."""
    return f"models/{model}/ticks/{version}/" + (f"{sha256}.json" if sha256 else "")


def policy(model: str, sha256: str) -> str:
    """The content of a policy that has judged versions."""
    return f"models/{model}/policies/{sha256}.json"


def verdicts(model: str) -> str:
    """The folder of a model's verdicts."""
    return f"models/{model}/verdicts/"


def verdict(model: str, sha256: str) -> str:
    """One judgement of a version."""
    return f"{verdicts(model)}{sha256}.json"


def channel(model: str, name: str) -> str:
    """The folder of a channel's log."""
    return f"models/{model}/channels/{name}/"


def record(model: str, channel_name: str, generation: int) -> str:
    """One record of a channel's log."""
    return f"{channel(model, channel_name)}{_NEWEST_FIRST - generation:013d}.json"


def generation(record_key: str) -> int:
    """The generation that a record's key spells.

    Raises:
        ValueError: it is not the key of a record.
    """
    digits = stem(record_key)
    if len(digits) != 13 or not digits.isascii() or not digits.isdigit():
        raise ValueError(f"{record_key!r} is not the key of a record")
    return _NEWEST_FIRST - int(digits)


def is_record(folder: str, key: str) -> bool:
    """Whether a key below a channel's folder is that of a record."""
    name = key.removeprefix(folder)
    return _RECORD.fullmatch(name) is not None and 1 <= generation(key) < _NEWEST_FIRST


def passed(model: str, channel_name: str, version: str, record_sha256: str = "") -> str:
    """A note that a version became stable in a channel by a record, or the folder of a version's notes."""
    return f"models/{model}/passed/{channel_name}/{version}/" + (f"{record_sha256}.json" if record_sha256 else "")


def all_replicas(model: str) -> str:
    """The folder of the heartbeats of all channels of a model."""
    return f"models/{model}/replicas/"


def replicas(model: str, channel_name: str) -> str:
    """The folder of a channel's heartbeats."""
    return f"models/{model}/replicas/{channel_name}/"


def replica(model: str, channel_name: str, replica_id: str) -> str:
    """One replica's own heartbeat."""
    return f"{replicas(model, channel_name)}{replica_id}.json"


def observations(model: str, channel_name: str = "") -> str:
    """The folder of what the replicas of a channel have counted, or without a channel that of all channels."""
    return f"models/{model}/observations/" + (f"{channel_name}/" if channel_name else "")


def observation(model: str, channel_name: str, replica_id: str) -> str:
    """One replica's own counts."""
    return f"{observations(model, channel_name)}{replica_id}.json"


def decision(model: str, channel_name: str, sha256: str = "") -> str:
    """A decision of the guard about a channel, or without a digest the folder of those."""
    return f"models/{model}/decisions/{channel_name}/" + (f"{sha256}.json" if sha256 else "")


def incident(model: str, channel_name: str, decision_sha256: str = "") -> str:
    """The note on what a decision of the guard took back, or without a digest the folder of a channel's."""
    return f"models/{model}/incidents/{channel_name}/" + (f"{decision_sha256}.md" if decision_sha256 else "")


def operations(model: str) -> str:
    """The folder of what the commands of the command line did."""
    return f"models/{model}/operations/"


def is_day(name: str) -> bool:
    """Whether a name is that of the folder of one day's operations. Their order is that of the days."""
    return _DAY.fullmatch(name) is not None


def operation(model: str, day: str, sha256: str = "") -> str:
    """One command that has ended, or without a digest the folder of a day's (`2026-11-21`)."""
    return f"{operations(model)}{day}/" + (f"{sha256}.json" if sha256 else "")


def forgotten(model: str, name: str = "") -> str:
    """A note that garbage collection may drop a version's files, or the folder of a model's notes."""
    return f"models/{model}/forgotten/" + (f"{name}.json" if name else "")


def pin(model: str, name: str = "") -> str:
    """A note that a rollback script holds a version, or the folder of a model's notes."""
    return f"models/{model}/pins/" + (f"{name}.json" if name else "")


def script(model: str, version: str, sha256: str = "") -> str:
    """A rollback script that goes to a version, or without a digest the folder of those."""
    folder = f"models/{model}/scripts/{version}/"
    return f"{folder}{sha256}/rollback_to_{version}.py" if sha256 else folder


def signature(model: str, version: str, sha256: str = "") -> str:
    """A signature of a version's manifest, or without a digest the folder of those."""
    return f"models/{model}/signatures/{version}/" + (f"{sha256}.json" if sha256 else "")
