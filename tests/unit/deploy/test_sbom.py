"""The bill of materials of the image, by the command of the Dockerfile."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.deploy_files import instructions
from tests.support.pages import ROOT


@pytest.mark.acceptance
def test_the_bill_of_materials_has_what_is_installed(tmp_path: Path) -> None:
    (run,) = [text for name, text in instructions() if name == "RUN" and "cyclonedx-py" in text]
    words = shlex.split(run.rpartition("&&")[2])
    places = {"/opt/sbom/bin/cyclonedx-py": shutil.which("cyclonedx-py", path=str(Path(sys.executable).parent)),
              "/ulora.cdx.json": str(tmp_path / "ulora.cdx.json"), "/opt/ulora/bin/python": sys.executable}  # fmt: skip
    subprocess.run([places.get(word, word) for word in words], check=True, capture_output=True)
    bill = json.loads((tmp_path / "ulora.cdx.json").read_text())
    assert bill["bomFormat"] == "CycloneDX"
    found = {re.sub(r"[-_.]+", "-", each["name"]).lower(): each["version"] for each in bill["components"]}
    pinned = dict(re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    named = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in pinned.items()}
    assert "ulora-registry" in found
    for name in ("torch", "transformers", "peft", "mlflow", "boto3", "psycopg", "fastapi", "safetensors"):
        assert found[name].partition("+")[0] == named[name]
