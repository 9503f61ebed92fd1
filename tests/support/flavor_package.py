"""An installed package with a flavor of its own, `plain`, for a team whose models are not DINO adapters.

Its MLflow model answers with the bytes of the version's files, so it needs no torch.
"""

from __future__ import annotations

from pathlib import Path

from registry.formats.canonical import sha256
from registry.versions.manifest import Component, FileEntry, Manifest

_MODEL = """
import mlflow
import pandas
from pathlib import Path
from mlflow.models import ModelSignature
from mlflow.types import ColSpec, Schema


class Plain(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        folder = self.folder = Path(context.artifacts["bundle"])
        self.files = {str(p.relative_to(folder)): p.read_text() for p in folder.rglob("*") if p.is_file()}

    def predict(self, context, model_input, params=None):
        return pandas.DataFrame({"text": [self.files[path] for path in model_input["path"]]})


def signature():
    return ModelSignature(Schema([ColSpec("string", "path")]), Schema([ColSpec("string", "text")]))


def input_example():
    return pandas.DataFrame({"path": ["config/a.txt"]})


mlflow.models.set_model(Plain())
"""


def install(folder: Path) -> None:
    """Write the package and its metadata into a folder, which is to be put on `sys.path`."""
    package, info = folder / "plainflavor", folder / "plainflavor-1.2.dist-info"
    package.mkdir(parents=True)
    info.mkdir()
    (package / "__init__.py").write_text("")
    (package / "loaded.py").write_text("def load(manifest, files, **how):\n    return manifest\n")
    (package / "model.py").write_text(_MODEL)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: plainflavor\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[ulora.loaders]\nplain = plainflavor.loaded:load\n[ulora.models]\nplain = plainflavor.model\n"
    )


def make_version(
    folder: Path, model: str, version: str, text: str, **fields: object
) -> tuple[Manifest, dict[str, Path]]:
    """A version of flavor `plain` with two small files, and where they are, under their digests."""
    contents = {"config/a.txt": text.encode(), "router/b.txt": b"b"}
    entries = tuple(FileEntry(path=path, size=len(data), sha256=sha256(data)) for path, data in contents.items())
    files = {}
    for entry in entries:
        files[entry.path] = folder / entry.sha256
        files[entry.path].write_bytes(contents[entry.path])
    manifest = Manifest.make(
        model=model,
        version=version,
        flavor="plain",
        backbone=None,
        components={"config": Component(), "router": Component()},
        files=entries,
        timestamp="2026-11-21T12:00:00Z",
        **fields,
    )
    return manifest, files
