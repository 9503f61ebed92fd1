"""Whether a credential can be sent in an HTTP header.

It is checked before it is sent: HTTP libraries show the whole value of a header that they refuse.
"""

from __future__ import annotations

import re

from registry.errors import BadSetting

# RFC 9110, 5.5 for values of headers, and RFC 7617, 2 for users and passwords, which are encoded before they are sent.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_LINE_BREAKS = ("\n", "\r")
_ENCODINGS = {"ascii": "ASCII", "latin-1": "Latin-1", "utf-8": "UTF-8"}


def header_problem(value: str, encoding: str = "ascii") -> str:
    """Why a credential can't be sent in a header, in words that follow its name; empty if it can.

    Args:
        encoding: what it has to fit into: `ascii` for tokens; for a user or password the one of who sends it.
    """
    if value.endswith(_LINE_BREAKS):
        return "ends with a line break"
    if any(each in value for each in _LINE_BREAKS):
        return "has a line break in it"
    if _CONTROL.search(value):
        return "has a control character in it"
    try:
        value.encode(encoding)
    except UnicodeEncodeError:
        return f"has a character in it that is not {_ENCODINGS[encoding]}"
    return ""


def check_header(name: str, value: str, encoding: str = "ascii", *, hint: str = "") -> None:
    """Check that a credential can be sent in a header; the error does not show it.

    Args:
        name: of the setting, for the error.
        encoding: see `header_problem`.
        hint: what to do, if that is not to set it again.

    Raises:
        BadSetting: it can't.
    """
    problem = header_problem(value, encoding)
    if not problem:
        return
    again = "was it made from a file? `printf %s` writes no line break at the end" if "ends" in problem else ""
    raise BadSetting(
        f"{name} {problem}, and can't be sent in an HTTP header",
        hint=hint or again or "set it again, as one line that is copied as a whole",
    )
