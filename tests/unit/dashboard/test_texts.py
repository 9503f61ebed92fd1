"""Texts of the store on pages and plots: they are cut, and never marks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from registry.dashboard import text
from registry.dashboard.links import model_page
from registry.dashboard.options import DashboardOptions
from registry.dashboard.server import settings
from registry.errors import BadInput
from registry.settings import Settings


@pytest.mark.parametrize(
    "evil", ["**a**", "[a](http://b)", "![a](http://b)", "<b>a</b>", "$x$", ":red[a]", "`a`", "# a"]
)
def test_markdown_shows_the_text_and_nothing_else(evil: str) -> None:
    marked = text.markdown(evil)
    assert marked.replace("\\", "") == evil
    assert all(marked[place - 1] == "\\" for place, letter in enumerate(marked) if letter in "*[]<>$:`#!()")


def test_texts_are_one_short_line_without_control_characters() -> None:
    assert text.plain("a\x1b[2J\nb\u202ec") == "a [2J b c"
    assert len(text.plain("x" * 10_000)) == text.MAX_TEXT
    assert text.label("<a href='x'>&</a>") == "&lt;a href='x'&gt;&amp;&lt;/a&gt;"


@pytest.mark.parametrize("when", ["", "yesterday", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", None])
def test_a_record_may_say_any_time(when: str | None) -> None:
    assert text.moment(when) is None
    assert text.when_text(when)


def test_times_and_sizes_are_for_people() -> None:
    assert text.when_text("2026-11-21T13:00:00+01:00") == "2026-11-21 12:00:00 UTC"
    assert [text.duration(seconds) for seconds in (0.35, 4.45, 59, 3600, 26 * 3600, 9 * 86_400)] == [
        "350 ms", "4.5 s", "59 s", "60 min", "26 h", "9 d",
    ]  # fmt: skip
    assert text.percent(0.0366) == "3.66%"
    assert text.percent(None) == "–"


@pytest.mark.parametrize(
    ("address", "link"),
    [
        (
            "http://me:secret@mlflow.example:5000/",
            "http://mlflow.example:5000/#/models/m?workflowType=machine_learning",
        ),
        ("sqlite:///mlflow.db", ""),
        ("javascript:alert(1)", ""),
        (None, ""),
    ],
)
def test_only_a_server_with_pages_is_linked(address: str | None, link: str) -> None:
    assert model_page(Settings(model="m", store="s3://b", tracking_uri=address)) == link


def test_options_that_can_not_be_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no such folder"):
        DashboardOptions(data=tmp_path / "none")
    with pytest.raises(BadInput, match="not a port"):
        DashboardOptions(port=0)
    assert DashboardOptions().is_local
    assert not DashboardOptions(host="0.0.0.0").is_local
    assert DashboardOptions(host="::1").url == "http://[::1]:8501"


def test_streamlit_sends_nothing_and_watches_nothing() -> None:
    said = settings(DashboardOptions())
    assert said["browser.gatherUsageStats"] is False
    assert said["server.fileWatcherType"] == "none"
    assert said["server.enableXsrfProtection"] is True
    assert said["client.showErrorDetails"] == "none"


def test_the_command_checks_its_options_before_anything_heavy(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom registry.cli.main import main\n"
        "try: main(['dashboard', '--data', 'nosuch'])\nexcept SystemExit as end: assert end.code == 2, end.code\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    env = os.environ | {"ULORA_STORE": "s3://bucket/x"}
    done = subprocess.run(
        [sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert not set(done.stdout.split()) & {"streamlit", "plotly", "mlflow", "pandas"}


def test_without_the_extra_the_error_names_it(tmp_path: Path) -> None:
    """Another Python that finds no Streamlit: a folder before all others has one that can't be imported."""
    (tmp_path / "streamlit.py").write_text("raise ImportError('No module named streamlit')\n")
    env = os.environ | {"ULORA_STORE": "s3://bucket/x", "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "registry", "dashboard", "--json"], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "MissingDependency" in done.stderr
    assert "ulora-registry[dashboard]" in done.stderr
