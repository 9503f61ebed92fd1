"""The notebooks in `examples/` run from the first cell to the last, one after the other, in one folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

EXAMPLES = Path(__file__).parents[2] / "examples"
NOTEBOOKS = sorted(EXAMPLES.glob("*.ipynb"))
SAYS = {
    "1-train-version-compare": ("v5.5.3-performance is in staging, generation 1", "images were answered by both"),
    "2-follow-in-a-service": ("back on v5.5.3-performance after", " answers, 0 failures", "all is well"),
    "3-what-happened-last-night": (
        "just before the last rollback: v5.5.4-dinov3",
        "just after it:                 v5.5.3-performance",
        "v5.5.3-performance is whole",
        "forced because: the labels were fine, says marketing",
    ),
}
"""What each prints when it has shown what it is about."""


@pytest.mark.acceptance
@pytest.mark.timeout(1800)
def test_the_notebooks_run_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    for variable in ("ULORA_STORE", "ULORA_S3_ENDPOINT", "MLFLOW_TRACKING_URI", "ULORA_POLICY"):
        monkeypatch.delenv(variable, raising=False)
    assert [path.stem for path in NOTEBOOKS] == list(SAYS)
    for path in NOTEBOOKS:
        shutil.copy(path, tmp_path)
        printed = run(tmp_path / path.name)
        for sentence in SAYS[path.stem]:
            assert sentence in printed, printed
        assert "Traceback" not in printed


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_results(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert all(not cell.outputs and cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


def run(path: Path) -> str:
    """Run a notebook in its folder; returns all that it printed. A cell that fails ends it with the cell's error."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=1200, resources={"metadata": {"path": str(path.parent)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    return "\n".join(output.get("text", "") for output in outputs if output.get("name") == "stdout")
