"""The dashboard in a headless Chromium: its process, its pages, and the pictures of them for the docs.

`python -m tests.support.dashboard_browser DIR` makes a model's story on a store of its own and writes them to DIR.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from registry.api import Registry
from registry.devstack.ports import Ports
from registry.devstack.s3_server import S3Server
from tests.support.dashboard_story import tell
from tests.support.mlflow_browser import browser

PAGES = ("Now", "Versions", "History", "Health", "Policy")
_WIDTH, _HEIGHT = 1280, 900


@contextmanager
def dashboard(registry: Registry, *words: str) -> Iterator[str]:
    """The address of `ulora dashboard` in a process of its own, which Ctrl-C has to end in order."""
    ports = Ports()
    env = os.environ | registry.settings.environment()
    command = [sys.executable, "-m", "registry", "dashboard", "--port", str(ports.first), *words]
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=errors, text=True)
        try:
            assert process.stdout
            said = process.stdout.readline()
            errors.seek(0)
            assert f"http://127.0.0.1:{ports.first}" in said, (said, errors.read())
            yield f"http://127.0.0.1:{ports.first}"
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=300)
            errors.seek(0)
            said = errors.read()
            assert (process.returncode, rest) == (0, ""), (process.returncode, rest, said)
            assert "Traceback" not in said, said
        finally:
            process.kill()
            process.wait()


def open_page(page: Any, url: str, name: str) -> str:
    """Open a page by the menu, wait until it is drawn, and return its text."""
    if not page.url.startswith(url):
        page.goto(url)
    page.get_by_test_id("stSidebarNav").get_by_role("link", name=name, exact=True).click()
    page.get_by_role("heading", name=name, exact=True, level=1).wait_for()
    return drawn(page)


def drawn(page: Any) -> str:
    """The text of the page once its script has run to the end."""
    page.wait_for_function(
        "() => document.querySelector('[data-test-script-state=notRunning]') && "
        "!document.querySelector('[data-testid=stSkeleton], [data-stale=true]')"
    )
    return " ".join(page.get_by_test_id("stMain").inner_text().split())


def make_pictures(folder: Path) -> None:
    """Write the pictures of a story to a folder."""
    with tempfile.TemporaryDirectory(prefix="ulora-pictures-") as scratch, browser() as page:
        place = Path(scratch)
        s3 = S3Server(place / "s3").start()
        try:
            os.environ.update(s3.env)
            story = tell(
                place / "registry", f"s3://{s3.bucket}/farm", "aads-ulora", tracking_uri="http://mlflow.example:5000"
            )
            with dashboard(story.registry, "--data", str(story.images), "--allow-changes") as url:
                for name in PAGES:
                    page.set_viewport_size({"width": _WIDTH, "height": _HEIGHT})
                    open_page(page, url, name)
                    _picture(page, folder / f"dashboard-{name.lower()}.png")
        finally:
            s3.kill()


def _picture(page: Any, path: Path) -> None:
    """The whole page: the part that scrolls is made as high as its content."""
    height = page.evaluate("() => document.querySelector('[data-testid=stMain]').scrollHeight")
    page.set_viewport_size({"width": _WIDTH, "height": min(3200, max(_HEIGHT, height + 20))})
    drawn(page)
    page.wait_for_timeout(2500)  # charts are drawn after the text is there
    page.screenshot(path=str(path))


if __name__ == "__main__":
    make_pictures(Path(sys.argv[1]))
