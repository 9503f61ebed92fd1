"""Which target and label people mean by the names of their folders: by a rule that is shown, or by a file of theirs.

The rule makes targets' names valid: accents go, letters become small, and everything else becomes `_`, with none at the
ends: `Corn_(maize)` is `corn_maize`. `Crop___disease` is a crop and a disease. Labels stay as they are, in Unicode's
composed form (NFC), so that one name in two forms is one label.

The file is TOML: each folder that holds images, by its path without the split, and what it is.

    "Corn_(maize)___Common_rust_" = "corn_maize/Common_rust"
    "Background_without_leaves" = ""                              # left out
"""

from __future__ import annotations

import json
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

from registry.errors import BadInput, disk_errors
from registry.names import check_new_target

CLASS_SEPARATOR = "___"
"""Between crop and disease in a folder's name, as PlantVillage has it."""
MAX_FILE = 4 * 1024 * 1024
"""Bytes of the largest file of names."""
_MAX_LABEL = 200
_HEADER = """\
# Each folder that holds images, by its path without train, val or test, and what its images show: "target/label".
# "" leaves a folder out. A target is a crop (or crop__part): small letters, digits and single underscores.
"""
_PROPOSED = "# Guesses, by the first word or the folder around them: correct them.\n"
_LEFT_OUT = "# Not in a place where images are read: left out unless you say what they show.\n"


class Meaning(NamedTuple):
    """What the images of a folder show."""

    target: str
    label: str

    def __str__(self) -> str:
        return f"{self.target}/{self.label}"


Names: TypeAlias = Mapping[str, "Meaning | None"]
"""Folder -> what its images show, None where they are left out."""


class Proposal(NamedTuple):
    """A line for the file of names: a folder, what it is by the rule, and a guess where no rule says it."""

    folder: str
    meaning: Meaning | None
    guess: Meaning | None


def composed(name: str) -> str:
    """A name in Unicode's composed form, NFC."""
    return unicodedata.normalize("NFC", name)


def valid_target(name: str) -> str:
    """A valid target's name by the rule; empty if no letter or digit is left."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    if is_target(plain):
        return plain
    return re.sub(r"[^a-z0-9]+", "_", plain).strip("_")


def is_target(name: str) -> bool:
    """Whether a text is a target's name."""
    try:
        check_new_target(name)
    except BadInput:
        return False
    return True


def class_meaning(name: str) -> Meaning | None:
    """What `Crop___disease` means; None if the name has another form."""
    crop, _, disease = name.partition(CLASS_SEPARATOR)
    target, label = valid_target(crop), composed(disease)
    return Meaning(target, label) if target and label.strip("_ ") else None


def guess_meaning(name: str, around: str) -> Meaning | None:
    """A crop and a disease by the first word of a name, e.g. of `Apple Scab Leaf`; for a single word, the crop by the
    name of the folder around. A guess, to be shown and never used by itself."""
    first, _, rest = re.sub(r"[\s_-]+", " ", composed(name)).strip().partition(" ")
    target, label = (valid_target(first), rest) if rest else (valid_target(around), first)
    return Meaning(target, label) if target and label else None


def read_names(path: Path) -> dict[str, Meaning | None]:
    """Read a file of names.

    Raises:
        BadInput: when it can't be read, is not TOML, or a line is not `"folder" = "target/label"`.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        raise BadInput(f"{path} can't be read: {error.strerror}", hint="check the path") from error
    if len(data) > MAX_FILE:
        raise BadInput(f"{path} has more than {MAX_FILE} bytes", hint="it is not a file of names")
    try:
        document = tomllib.loads(data.decode())
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(
            f"{path} is not valid TOML: {error}"[:300], hint='a line is "folder" = "target/label"'
        ) from error
    return {composed(folder): _meaning(path, folder, text) for folder, text in document.items()}


def write_names(path: Path, proposals: Iterable[Proposal]) -> None:
    """Write a file of names, to be read and corrected.

    Raises:
        DiskFull, BadSetting: when it can't be written.
    """
    lines = {"": "", _PROPOSED: "", _LEFT_OUT: ""}
    for one in proposals:
        part = "" if one.meaning else _PROPOSED if one.guess else _LEFT_OUT
        lines[part] += f"{_quoted(one.folder)} = {_quoted(str(one.meaning or one.guess or ''))}\n"
    text = _HEADER + "".join(f"\n{title}{part}" for title, part in lines.items() if part)
    with disk_errors(path):
        path.write_text(text, "utf-8")


def _meaning(path: Path, folder: str, text: object) -> Meaning | None:
    if text == "":
        return None
    target, slash, label = text.partition("/") if isinstance(text, str) else ("", "", "")
    label = composed(label.strip())
    if not slash or not is_target(target) or not 0 < len(label) <= _MAX_LABEL:
        raise BadInput(
            f"{path}: {folder[:80]!r} is {str(text)[:80]!r}, not a target and a label",
            hint='for example "corn_maize/Common_rust", a target of small letters, digits and single underscores; ""'
            " leaves the folder out",
        )
    return Meaning(target, label)


def _quoted(text: str) -> str:
    # JSON's strings are TOML's, but for one control character, which TOML wants escaped.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
