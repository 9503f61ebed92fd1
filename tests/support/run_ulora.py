"""The command line in this process: what it prints, and the status that it would exit with."""

from __future__ import annotations

import json
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

from registry.cli.main import main


@dataclass(frozen=True)
class Finished:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """Its standard output, parsed."""
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, str]:
        """Its standard error, which must be one JSON object on one line."""
        (line,) = self.err.splitlines()
        parsed = json.loads(line)
        assert sorted(parsed) == ["error", "hint", "message"]
        return parsed  # type: ignore[no-any-return]


def ulora(*words: object) -> Finished:
    """Run `ulora` with these words."""
    out, err = StringIO(), StringIO()
    code: object = None
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main([str(word) for word in words])
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    return Finished(code, out.getvalue(), err.getvalue())


def complains(finished: Finished, code: int, *says: str) -> None:
    """Check that a command ended with this status, one clear line, and no traceback."""
    assert finished.code == code, finished
    first, *rest = finished.err.splitlines()
    assert first.startswith("error: "), finished
    assert all(line.startswith("hint: ") for line in rest), finished
    assert len(rest) <= 1
    assert "Traceback" not in finished.out + finished.err
    assert "unexpected" not in first, finished
    for word in says:
        assert word in finished.err, finished
