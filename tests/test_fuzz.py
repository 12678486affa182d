"""A small part of `tests/support/fuzz.py`, whose full run is one command: 300 mutations in processes of their own."""

import random
from pathlib import Path

import pytest

from tests.support import fuzz, fuzz_targets


@pytest.mark.parametrize("count", [100, pytest.param(200, marks=pytest.mark.slow)])
def test_mutated_files_end_in_a_result_or_a_sentence(count: int) -> None:
    report = fuzz.fuzz(count, seed=2, kinds=("dicom", "table"))
    assert report["findings"] == []
    assert report["mutations"] == 0.9 * count
    assert report["kinds"]["dicom"]["outcomes"]["issue"] > 0
    assert report["kinds"]["dicom"]["outcomes"]["series"] > 0
    assert report["kinds"]["table"]["outcomes"]["one sentence"] > 0
    assert max(kind["peak_mb"] for kind in report["kinds"].values()) < 1024


def test_thirty_mutated_bundles_end_in_a_bundle_or_a_sentence(tmp_path: Path) -> None:
    """Here and not in a process of its own, since torch is loaded already."""
    attack = fuzz_targets.bundle_attack(tmp_path)
    outcomes = [attack(random.Random(f"2/{index}")) for index in range(30)]
    assert set(outcomes) <= {"one sentence", "bundle"}
    assert "one sentence" in outcomes


@pytest.mark.parametrize(
    ("script", "ended"),
    [("import os; os.abort()", "died"), ("import time; print('{\"ready\": 1}', flush=True); time.sleep(60)", "hung")],
)
def test_a_worker_that_dies_or_hangs_is_a_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, ended: str
) -> None:
    planted = tmp_path / "worker.py"
    planted.write_text(script)
    monkeypatch.setattr(fuzz, "__file__", str(planted))
    monkeypatch.setattr(fuzz, "LIMIT_SECONDS", 0.2)
    outcomes, findings, _ = fuzz.run_kind("dicom", 1, [5])
    assert [finding["index"] for finding in findings] == [5]
    assert next(iter(outcomes)).startswith(ended)
