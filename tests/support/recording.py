"""The animated picture of the README: its commands, run in a terminal, with what they print and how long they take.

`python -m tests.support.recording docs/images/first-ten-minutes.svg` makes it anew, in some minutes.
"""

from __future__ import annotations

import html
import os
import pty
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from registry.devstack.stack import Stack
from tests.support.coloured_images import write_unsplit

COLUMNS, ROWS, LINE, WIDTH = 112, 30, 18, 900
LONGEST_WAIT, LAST_WAIT, TYPING = 2.0, 6.0, 0.8
"""Seconds of the picture: the most that a command seems to take, how long the end stays, and how long typing takes."""
GATE_REFUSED = 3
V1, V2 = "v5.5.3-performance", "v5.5.4-dinov3"
COMMANDS = (
    "ulora init --policy none --yes",
    "ulora data check images/ --ood-from photos",
    "ulora fit --data images/ --backbone dinov2-tiny --out bundle/",
    "ulora backbone add dinov2-tiny",
    f"ulora create {V1} --from bundle/ --description 'rank 4 on DINOv2'",
    f"ulora measure {V1} --data images/",
    f"ulora promote {V1} --channel staging",
    f"ulora promote {V1} --channel production",
    f"ulora promote {V1} --channel production --force --reason 'first release, to try it'",
    "ulora fit --data images/ --backbone dinov3-tiny --out bundle-dinov3/",
    "ulora backbone add dinov3-tiny",
    f"ulora create {V2} --from bundle-dinov3/ --parent {V1} --description 'DINOv3 backbone'",
    f"ulora promote {V2} --channel production --force --reason 'a drill'",
    "ulora rollback --reason 'error rate 2%'",
    "ulora history",
)
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass(frozen=True)
class Ran:
    """A command, the lines on the terminal after it, and its seconds."""

    command: str
    lines: tuple[str, ...]
    seconds: float


def run(command: str, folder: Path, env: dict[str, str]) -> Ran:
    """Run a command on a terminal."""
    ours, theirs = pty.openpty()
    began = time.monotonic()
    process = subprocess.Popen(["bash", "-c", command], cwd=folder, env=env, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    said = bytearray()
    try:
        while data := os.read(ours, 65536):
            said += data
    except OSError:  # Linux: the other end is closed
        pass
    finally:
        os.close(ours)
    status = process.wait()
    seconds = time.monotonic() - began
    sys.stderr.write(f"{seconds:.1f} s  {command}\n")
    text = ESCAPES.sub("", said.decode("utf-8", "replace")).replace("\r\n", "\n")
    assert status in (0, GATE_REFUSED), f"{command} ended with {status}:\n{text}"
    lines = [line.rpartition("\r")[2].rstrip() for line in text.split("\n")]  # of a bar its last state
    return Ran(command, tuple(part for line in lines if line for part in folded(line)), seconds)


def folded(line: str) -> list[str]:
    """A line as a terminal of this width shows it."""
    return [line[start : start + COLUMNS] for start in range(0, len(line), COLUMNS)]


def picture(ran: list[Ran]) -> str:
    """The SVG: every line appears at its time, and the text moves up when the terminal is full."""
    shown: list[tuple[float, str]] = []
    now = 0.0
    for each in ran:
        for part in folded(f"$ {each.command}"):
            shown.append((now, f'<tspan class="c">{html.escape(part)}</tspan>'))
        now += TYPING + min(each.seconds, LONGEST_WAIT)
        shown += [(now, coloured(line)) for line in each.lines]
        shown.append((now, f'<tspan class="d">{each.seconds:.1f} s</tspan>'))
        now += 1.0
    end = now + LAST_WAIT
    styles, texts, moves = [], [], ["0%{transform:translateY(0)}"]
    for number, (at, text) in enumerate(shown):
        styles.append(
            f"@keyframes k{number}{{0%{{opacity:0}}{at / end:.4%}{{opacity:1}}}}#l{number}{{animation-name:k{number}}}"
        )
        texts.append(f'<text id="l{number}" class="l" x="14" y="{(number + 1) * LINE}">{text}</text>')
        if number >= ROWS:
            moves.append(f"{at / end:.4%}{{transform:translateY(-{(number - ROWS + 1) * LINE}px)}}")
    height, last = ROWS * LINE + 52, max(0, len(shown) - ROWS) * LINE
    style = (
        "text{font:13px ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;fill:#d6dbe0;white-space:pre}"
        ".c{fill:#7fd4a8;font-weight:bold}.d,.t{fill:#8b949e}.e{fill:#ff8b7b}"
        f".l,#s{{animation-duration:{end:.2f}s;animation-timing-function:step-end;animation-iteration-count:infinite}}"
        f"@keyframes s{{{''.join(moves)}}}#s{{animation-name:s}}"
        f"@media (prefers-reduced-motion:reduce){{.l,#s{{animation:none}}#s{{transform:translateY(-{last}px)}}}}"
    )
    title = "ulora: the commands of the README, as they ran; waits are cut to 2 s, the grey figures are the real ones"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{title}">'
        f"<style>{style}{''.join(styles)}</style>"
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#161b22"/><text class="t" x="14" y="22">{title}</text>'
        f'<svg y="32" width="{WIDTH}" height="{ROWS * LINE + 8}"><g id="s">{"".join(texts)}</g></svg></svg>\n'
    )


def coloured(line: str) -> str:
    """A line as SVG; complaints in red."""
    text = html.escape(line)
    return f'<tspan class="e">{text}</tspan>' if line.startswith(("error:", "refused")) else text


def record(target: Path) -> None:
    """Run all commands on servers of their own, and write the picture."""
    with TemporaryDirectory(prefix="ulora-recording-") as scratch, Stack(Path(scratch) / "data") as stack:
        folder = Path(scratch) / "project"
        folder.mkdir()
        write_unsplit(folder / "images", count=40)
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        cache = str(Path(scratch) / "cache")
        size = {"COLUMNS": str(COLUMNS), "LINES": str(ROWS), "TERM": "xterm-256color"}
        env = {**os.environ, **stack.env, **size, "PATH": path, "ULORA_CACHE": cache, "ULORA_WHO": "ann@example.com"}
        run("ulora store init", folder, env)
        target.write_text(picture([run(command, folder, env) for command in COMMANDS]))


if __name__ == "__main__":
    record(Path(sys.argv[1]))
