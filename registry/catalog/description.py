"""The description of a registered version: its name, notices, what people wrote, then a table.

The mirror writes the first and the last part anew; they are between marks that Markdown does not show. What is outside
of them is people's, and is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

LIMIT = 5000
"""Characters that MLflow's tables hold."""
_MAX_NOTICE = 900
_END = "[//]: # (ulora: until here)"
_OURS = re.compile(
    r"\[//\]: # \(ulora: written anew at each change(?: (?P<mark>[0-9a-f]+))?\)\n(?P<text>.*?)\n" + re.escape(_END),
    re.DOTALL,
)
_NOTICE = re.compile(r"^> \*\*(?P<title>[^*\n]+)\*\* (?P<text>.*)$", re.MULTILINE)
_OLD_MODEL = re.compile(
    r"Versions are made, gated, promoted and rolled back with `ulora` \(ulora-registry\)\..*?change them\."
)
_OF_MODEL = """\
Versions are made, gated, promoted and rolled back with `ulora`; stages and aliases here show what serving follows.

**To ask from this page**, set an alias on a version (*Aliases*, the pencil):

| alias | asks |
|---|---|
| `request-staging` | make this version stable in staging |
| `request-production` | make this version stable in production |
| `request-rollback` | roll production back: on the version that is served, from it; on an earlier one, to it |

The gates decide within seconds while `ulora reconcile --watch` runs. The version's page then begins with the answer.

**The blue button "Promote model" does not promote:** it copies a version to another model.

A stage, or the alias of a channel, that is moved by hand is moved back."""
_OLD_TABLE = re.compile(r"\| \| \|\n\|---\|---\|\n\| version \| .*\| content \| `[0-9a-f]{64}` \|\n?", re.DOTALL)
"""What earlier releases wrote, without marks."""


@dataclass(frozen=True)
class Description:
    """The parts of a description.

    Attributes:
        name: the version's name.
        notices: what should be seen first, by title: a refused request, an alias that was moved back.
        people: what people wrote.
        table: everything else, Markdown.
        mark: tells whether the table says what it should, without making it; hexadecimal.
    """

    name: str
    notices: Mapping[str, str] = field(default_factory=dict)
    people: str = ""
    table: str = ""
    mark: str = ""

    @classmethod
    def parse(cls, text: str, name: str) -> Self:
        """The parts of what MLflow holds; also of what earlier releases or people alone wrote."""
        parts = list(_OURS.finditer(text))
        notices = {each["title"]: each["text"] for each in _NOTICE.finditer(parts[0]["text"])} if parts else {}
        people = _OLD_TABLE.sub("", _OURS.sub("", text)).strip()
        if len(parts) < 2:
            return cls(name, notices, people)
        return cls(name, notices, people, parts[-1]["text"].strip(), parts[-1]["mark"] or "")

    def noting(self, notices: Mapping[str, str]) -> Self:
        """The same with these notices, by title, added or replaced; an empty text removes one."""
        found = {**self.notices, **{title: _one_line(text) for title, text in notices.items()}}
        return replace(self, notices={title: text for title, text in found.items() if text})

    def __str__(self) -> str:
        """The text for MLflow. What is too long for it is left out: the end of the table, then notices, never what
        people wrote."""
        heads = [self._head(self.notices), self._head({title: "" for title in self.notices}), self._head({}), ""]
        firsts = ["\n\n".join(filter(None, (head, self.people))) for head in heads]
        first = next((text for text in firsts if len(text) <= LIMIT), self.people)
        room = LIMIT - len(first) - len(_ours("", self.mark)) - 2
        return f"{first}\n\n{_ours(_cut(self.table, room), self.mark)}" if room > 0 else first

    def _head(self, notices: Mapping[str, str]) -> str:
        shown = "\n>\n".join(f"> **{title}** {text}" for title, text in notices.items())
        return _ours("\n\n".join(filter(None, (f"### {self.name}", shown))))


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_NOTICE else line[: _MAX_NOTICE - 2] + " …"


def _ours(text: str, mark: str = "") -> str:
    begin = f"[//]: # (ulora: written anew at each change{mark and ' '}{mark})"
    return f"{begin}\n\n{text}\n\n{_END}"  # a mark right below a table or a paragraph would be shown as part of it


def _cut(table: str, room: int) -> str:
    lines = table.splitlines()
    while lines and len("\n".join(lines)) > room:
        lines.pop()
    return "\n".join(lines)


def model_description(text: str) -> str:
    """The description of a registered model: how to ask for a change, then what people wrote in `text`."""
    people = _OLD_MODEL.sub("", _OURS.sub("", text)).strip()
    return "\n\n".join(filter(None, (_ours(_OF_MODEL), people)))[:LIMIT]
