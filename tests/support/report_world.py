"""A report of the command line for the tests of `report.html`."""

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import train_utils
from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.prediction.result import StudyResult
from lumbar.report.html import write
from lumbar.study.study import DataFolder, open_data
from tests.conftest import ROOT

GRADED, BROKEN = "100002", "100009"
HOSTILE = "</script><script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"


@dataclass(frozen=True)
class World:
    """A data folder, the bundle, what it found, and the page of it."""

    data: DataFolder
    bundle: Bundle
    results: list[StudyResult]
    page: Path

    @property
    def text(self) -> str:
        """The whole page."""
        return self.page.read_text(encoding="utf-8")

    def block(self, name: str) -> dict[str, Any]:
        """The data of the page that lies in the script element of that id."""
        found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', self.text, re.DOTALL)
        assert found is not None
        return json.loads(found[1])


def report_world(root: Path, out: Path) -> World:
    """One study of a patient, so its headers say, with a hostile description in its series table, and one without any
    images: a data folder in `root`, and the report in `out`, graded by the shipped bundle."""
    shutil.copytree(ROOT / "sample_data" / "train_images" / GRADED, root / "train_images" / GRADED)
    for path in root.rglob("*.dcm"):
        path.write_bytes(path.read_bytes().replace(b"Lumbar phantom", b"Some scanner  "))
    for name in ("train.csv", "train_series_descriptions.csv"):
        head, *rows = (ROOT / "sample_data" / name).read_text(encoding="utf-8").splitlines()
        kept = [row for row in rows if row.startswith(f"{GRADED},")]
        if "series" in name:
            kept += [f'{GRADED},123456789012345678,"{HOSTILE}"', f"{BROKEN},1,Sagittal T1"]
        (root / name).write_text("\n".join([head, *kept]) + "\n", encoding="utf-8")
    results: list[StudyResult] = []

    def recorded(found: list[StudyResult], *args: Any, **options: Any) -> Path:
        results.extend(found)
        return write_report(found, *args, **options)

    write_report = write.write_report
    command = ["predict", "--data", str(root), "--weights", str(ROOT / "weights"), "--out", str(out)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "write_report", recorded)
        code = train_utils.main([*command, "--on-error", "prior", "--html"])
    assert code == 1, "half of the studies failed; everything is written all the same"
    return World(open_data(root), load_bundle(ROOT / "weights"), results, out / write.REPORT)
