"""Files for people are written whole or not at all, and over nothing of anybody else's."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from registry.errors import BadInput, BadSetting, UloraError
from registry.formats.html_page import html_page
from registry.formats.own_file import is_audit_archive, is_markdown_report, is_page, own_file, write_own_text
from registry.usecases.audit_archive import write_archive

HINT = "give another --out FILE"
PAGE = html_page("a title", "text")


def test_a_page_replaces_a_page_and_an_empty_file(tmp_path: Path) -> None:
    place = tmp_path / "page.html"
    for before in ("", PAGE):
        place.write_text(before)
        assert write_own_text(place, html_page("new", "text"), is_page, hint=HINT) == place
        assert "new" in place.read_text()
    assert list(tmp_path.iterdir()) == [place]


def test_an_archive_replaces_an_archive_only(tmp_path: Path) -> None:
    place = tmp_path / "audit.zip"
    for body in (b"{}", b'{"format":1}'):
        write_archive(place, {"index.json": body, "verify.py": b"x"})
        assert is_audit_archive(place.read_bytes())
    (tmp_path / "page.html").write_text(PAGE)
    with pytest.raises(BadInput, match="not a file that this command wrote"):
        write_archive(tmp_path / "page.html", {"index.json": b"{}"})


@pytest.mark.parametrize("text", ["my thesis", "# Notes\n\nWhat it is\n", PAGE[1:]])
def test_a_file_of_somebody_else_stays(text: str, tmp_path: Path) -> None:
    place = tmp_path / "README.md"
    place.write_text(text)
    (tmp_path / "link").symlink_to(place)
    for path in (place, tmp_path / "link"):
        for is_own in (is_page, is_markdown_report, is_audit_archive):
            with pytest.raises(BadInput, match="is there"):
                write_own_text(path, PAGE, is_own, hint=HINT)
    assert place.read_text() == text
    assert len(list(tmp_path.iterdir())) == 2


def test_devices_and_pipes_stay_what_they_are(tmp_path: Path) -> None:
    """Whoever is root could replace `/dev/null` itself."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "null").symlink_to("/dev/null")
    for name, kind in (("pipe", stat.S_ISFIFO), ("null", stat.S_ISCHR)):
        with pytest.raises(BadInput, match="not a plain file"):
            write_own_text(tmp_path / name, PAGE, is_page, hint=HINT)
        assert kind((tmp_path / name).stat().st_mode)


def test_what_fails_leaves_the_older_file(tmp_path: Path) -> None:
    place = tmp_path / "page.html"
    place.write_text(PAGE)

    def fails() -> None:
        with own_file(place, is_page, hint=HINT) as part:
            part.write_text("half")
            raise ValueError("in the middle")

    with pytest.raises(ValueError, match="in the middle"):
        fails()
    assert place.read_text() == PAGE
    assert list(tmp_path.iterdir()) == [place]


@pytest.mark.parametrize("name", ["no/such/folder.html", 300 * "a", "page.html/more"])
def test_a_place_that_can_be_none_is_a_clear_error(name: str, tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(PAGE)
    with pytest.raises(UloraError) as caught:
        write_own_text(tmp_path / name, PAGE, is_page, hint=HINT)
    assert isinstance(caught.value, BadSetting)
    assert caught.value.hint == HINT


def test_who_may_read_it_is_what_the_process_says(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_own_text(tmp_path / "page.html", PAGE, is_page, hint=HINT)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "page.html").stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o400])
def test_who_may_read_an_older_file_may_read_the_new_one(mode: int, tmp_path: Path) -> None:
    place = tmp_path / "page.html"
    place.write_text(PAGE)
    place.chmod(mode)
    write_own_text(place, html_page("new", "text"), is_page, hint=HINT)
    assert stat.S_IMODE(place.stat().st_mode) == mode
    assert "new" in place.read_text()
