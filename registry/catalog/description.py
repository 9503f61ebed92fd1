"""The description of a registered version: its name, notices, what people wrote, then a table.

It begins with the name itself: lists in MLflow show the first characters. The mirror writes name, notices and table
anew; marks that Markdown does not show tell them from what people wrote, which is kept.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from registry.formats.visible_text import visible

LIMIT = 5000
"""Characters that MLflow's tables hold."""
_MAX_PARSED = 4 * LIMIT
"""Characters of the longest text in which the parts are looked for: on some texts that takes time in proportion to the
square of their length, and whoever may write to MLflow chooses the text."""
_MAX_NOTICE = 900
_ABOVE = "[//]: # (ulora: what is above is written anew at each change)"
_TABLE = re.compile(
    r"\[//\]: # \(ulora: the table is written anew at each change, (?P<mark>[0-9a-f]*)\)\n(?P<text>.*?)\n"
    r"\[//\]: # \(ulora: end of the table\)",
    re.DOTALL,
)
_NOTICE = re.compile(r"^> \*\*(?P<title>[^*\n]+)\*\* (?P<text>.*)$", re.MULTILINE)
_OLD_MODEL = re.compile(
    r"Versions are made, gated, promoted and rolled back with `ulora` \(ulora-registry\)\..*?change them\."
)
_OF_MODEL = """\
Versions are made, gated, promoted and rolled back with `ulora`; stages and aliases here show what serving follows.

**To ask from this page**, set an alias on a version (*Aliases*, the pencil):

| alias&nbsp; | asks |
|---|---|
| `request-staging`&nbsp; | make this version stable in staging |
| `request-production`&nbsp; | make this version stable in production |
| `request-rollback`&nbsp; | roll production back: on the version that is served, from it; on an earlier one, to it |

The gates decide within seconds while `ulora reconcile --watch` runs. The version's page then begins with the answer.

**The blue button "Promote model" does not promote:** it copies a version to another model.

A stage, or the alias of a channel, that is moved by hand is moved back."""
_UNDERLINE = "---"
"""Below the name: makes it a heading."""
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
        """The parts of what MLflow holds; also of what earlier releases or people alone wrote.

        A text that is far longer than the mirror makes any is one of people.
        """
        if len(text) > _MAX_PARSED:
            return cls(name, people=text)
        head, mark, rest = text.partition(_ABOVE)
        if not mark:
            head, rest = "", text
        notices = {each["title"]: each["text"] for each in _NOTICE.finditer(head)}
        above = "\n".join(line for line in head.splitlines() if not _is_ours(line, name))
        people = _OLD_TABLE.sub("", _TABLE.sub("", f"{above.strip()}\n{rest}")).strip()
        found = _TABLE.search(rest)
        return cls(name, notices, people, found["text"].strip(), found["mark"]) if found else cls(name, notices, people)

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
        room = LIMIT - len(first) - len(_framed("", self.mark)) - 2
        return f"{first}\n\n{_framed(_cut(self.table, room), self.mark)}" if room > 0 else first

    def _head(self, notices: Mapping[str, str]) -> str:
        shown = "\n>\n".join(f"> **{title}** {text}" for title, text in notices.items())
        return "\n\n".join(filter(None, (f"{self.name}\n{_UNDERLINE}", shown, _ABOVE)))


def _one_line(text: str) -> str:
    line = visible(" ".join(text.split()))
    return line if len(line) <= _MAX_NOTICE else line[: _MAX_NOTICE - 2] + " …"


def _is_ours(line: str, name: str) -> bool:
    """Whether a line above what people wrote is the mirror's."""
    return line.strip() in ("", ">", name, _UNDERLINE) or _NOTICE.match(line) is not None


def _framed(table: str, mark: str) -> str:
    begin = f"[//]: # (ulora: the table is written anew at each change, {mark})"
    # With empty lines: a mark right below a table would be shown as a row of it.
    return f"{begin}\n\n{table}\n\n[//]: # (ulora: end of the table)"


def _cut(table: str, room: int) -> str:
    lines = table.splitlines()
    while lines and len("\n".join(lines)) > room:
        lines.pop()
    return "\n".join(lines)


def model_description(text: str) -> str:
    """The description of a registered model: how to ask for a change, then what people wrote in `text`."""
    text = text[:_MAX_PARSED]
    _, mark, rest = text.partition(_ABOVE)
    people = _OLD_MODEL.sub("", rest if mark else text).strip()
    return "\n\n".join(filter(None, (_OF_MODEL, _ABOVE, people)))[:LIMIT]
