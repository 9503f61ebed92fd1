"""The picture that records a terminal: well-formed, complete, in order, and still for who wants no motion."""

from __future__ import annotations

import os
import re
from pathlib import Path
from xml.etree import ElementTree

from tests.support.pages import ROOT
from tests.support.recording import COLUMNS, COMMANDS, ROWS, Ran, picture, run

PICTURE = ROOT / "docs" / "images" / "first-ten-minutes.svg"


def texts(svg: str) -> list[str]:
    """The lines of a picture."""
    tree = ElementTree.fromstring(svg)
    return ["".join(each.itertext()) for each in tree.iter("{http://www.w3.org/2000/svg}text")][1:]


def test_a_command_is_recorded_as_a_terminal_shows_it(tmp_path: Path) -> None:
    words = f"test -t 1 && printf '10%%\\r100%%\\n\\033[31m<red>\\033[0m\\n{'x' * (COLUMNS + 1)}\\n'"
    ran = run(words, tmp_path, dict(os.environ))
    assert ran.lines == ("100%", "<red>", "x" * COLUMNS, "x")
    assert texts(picture([ran]))[-5:-1] == list(ran.lines)


def test_lines_appear_in_order_and_move_up() -> None:
    svg = picture([Ran("one", tuple(map(str, range(ROWS + 5))), 9.0), Ran("two", (), 0.1)])
    times = [float(found) for found in re.findall(r"@keyframes k\d+\{0%\{opacity:0\}([\d.]+)%", svg)]
    assert times == sorted(times)
    assert times[-1] < 100
    assert len(times) == len(texts(svg)) == ROWS + 5 + 4
    assert "9.0 s" in texts(svg)
    assert svg.count("translateY(-") >= 5 + 4


def test_the_picture_is_of_the_commands_of_today() -> None:
    lines = texts(PICTURE.read_text())
    commands = [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    assert commands == [command[: COLUMNS - 2] for command in COMMANDS]
