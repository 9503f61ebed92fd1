"""MLflow's pages in a headless Chromium: the flows that people click through, and the pictures of them for the docs.

`python -m tests.support.mlflow_browser DIR` makes a model's story on servers of its own and writes the pictures to DIR.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from registry.devstack.mlflow_server import MlflowServer
from registry.devstack.s3_server import S3Server
from tests.support.mlflow_story import FORCED, WEAK, tell

MODEL = "aads-ulora"
_ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
_MILLISECONDS = 120_000
"""How long a page may take on a busy machine: a guard against a hang."""
_SIZE = {"width": 1280, "height": 1250}
TRAINING = "workflowType=machine_learning"


def chromium() -> str | None:
    """The path of an installed Chromium, None without one."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


@contextmanager
def browser() -> Iterator[Any]:
    """A page of a headless browser."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium(), args=_ARGUMENTS)
        page = running.new_page(viewport=_SIZE)
        page.set_default_timeout(_MILLISECONDS)
        yield page
        running.close()


def open_model(page: Any, server: str, model: str) -> str:
    """Open the page of a model, and return its text."""
    page.goto(f"{server}/#/models/{model}?{TRAINING}")
    page.get_by_text("Registered At", exact=False).first.wait_for()
    return _text(page)


def open_version(page: Any, url: str, version: str) -> str:
    """Open the page of a version by its link, and return its text."""
    page.goto(url)
    page.get_by_role("heading", name=version, exact=True).first.wait_for()
    return _text(page)


def compare_newest(page: Any, server: str, model: str) -> str:
    """Choose the two newest versions of a model, press Compare, and return the text of that page."""
    open_model(page, server, model)
    boxes = page.locator("table input[type=checkbox], [role=table] input[type=checkbox]")
    boxes.last.wait_for(state="attached")
    for place in (1, 2):  # the first one chooses all
        boxes.nth(place).click(force=True)
    page.get_by_test_id("compareButton").click()
    page.get_by_text("Comparing 2 Versions").first.wait_for()
    page.get_by_text("Parallel Coordinates Plot").first.wait_for()
    return _text(page)


def _text(page: Any) -> str:
    close = page.get_by_label("Close")
    if close.count():
        close.first.click()  # MLflow's assistant, which covers a third of the page
    return " ".join(page.inner_text("body").split())


def _picture(page: Any, path: Path) -> None:
    page.wait_for_timeout(2000)  # charts are drawn after the text is there
    page.screenshot(path=str(path))


def make_pictures(folder: Path) -> None:
    """Write the pictures of a story to a folder."""
    with TemporaryDirectory(prefix="ulora-pictures-") as scratch, browser() as page:
        place = Path(scratch)
        s3, mlflow = S3Server(place / "s3").start(), MlflowServer(place / "mlflow").start()
        try:
            os.environ.update(s3.env)
            story = tell(place / "registry", f"s3://{s3.bucket}/farm", MODEL, mlflow.url)
            open_model(page, mlflow.url, MODEL)
            _picture(page, folder / "mlflow-model.png")
            for name, version in (("refused", WEAK), ("forced", FORCED)):
                (found,) = [each for each in story.registry.catalog.versions(MODEL) if each.version == version]
                open_version(page, found.url, version)
                _picture(page, folder / f"mlflow-{name}.png")
            compare_newest(page, mlflow.url, MODEL)
            _picture(page, folder / "mlflow-compare.png")
        finally:
            mlflow.kill()
            s3.kill()


if __name__ == "__main__":
    make_pictures(Path(sys.argv[1]))
