"""`import lumbar`: a folder in, tables and files out, and no torch before it is needed."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

import lumbar
from lumbar.issues import InputError
from lumbar.labels import SUBMISSION_COLUMNS
from tests.support.worlds import small_phantoms, tiny_bundle

pytestmark = pytest.mark.usefixtures("networks_kept")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    small_phantoms(root / "data", 2)
    tiny_bundle(root / "weights")
    return root


@pytest.fixture(scope="module")
def results(world: Path) -> lumbar.Results:
    return lumbar.grade(world / "data", world / "weights", device="cpu", progress=False)


def test_importing_it_and_opening_a_folder_load_no_torch(world: Path, root: Path) -> None:
    script = (
        "import sys, lumbar\nassert 'numpy' not in sys.modules\n"
        f"data = lumbar.open_data({str(world / 'data')!r})\nassert len(data.study_ids) == 2\n"
        "assert set(lumbar.__all__) <= set(dir(lumbar))\nsys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_name_that_it_does_not_have_is_none() -> None:
    with pytest.raises(AttributeError, match="'lumbar' has no attribute 'grades'"):
        lumbar.grades  # noqa: B018 - the access is what is tried


def test_results_are_the_studies_and_tables_of_them(world: Path, results: lumbar.Results) -> None:
    ids = list(lumbar.open_data(world / "data").study_ids)
    assert [study.study_id for study in results] == ids
    assert results[0] is results.study(ids[0])
    assert len(results[:1]) == 1
    assert tuple(results.submission.columns) == SUBMISSION_COLUMNS
    assert len(results.submission) == 50
    assert set(results.keypoints["study_id"]) <= set(ids)
    assert results.keypoints["confidence"].between(0, 1).all()
    assert list(results.issues.columns) == ["study", "series", "code", "detail", "meaning"]
    assert set(results.issues["study"]) <= set(ids)
    assert "no test on patients is told. 2 of 2 studies are phantoms." in results.evidence
    assert results.evidence in repr(results)
    assert re.fullmatch(r"Bundle [0-9a-f]{12} in .+: \d+ networks, blend mean", repr(results.bundle))
    assert repr(results[0]).startswith(f"StudyResult {ids[0]}: phantom, 17 of 25 graded, ")
    assert repr(results[0]).endswith(f"Severities rest on: {results[0].rests_on(short=True)}.")
    assert max(len(repr(one)) for one in (results, results.bundle, results[0])) < 1000
    with pytest.raises(InputError, match="study 7 was not graded"):
        results.study(7)


def test_what_is_saved_is_what_the_tables_say_and_what_the_command_writes(
    world: Path, results: lumbar.Results, tmp_path: Path
) -> None:
    (path,) = results.save(tmp_path / "out")
    pd.testing.assert_frame_equal(pd.read_csv(path), results.submission.reset_index(drop=True), atol=1e-12)
    words = ["--data", str(world / "data"), "--weights", str(world / "weights"), "--out", str(tmp_path / "command")]
    from train_utils import main

    assert main(["predict", *words, "--device", "cpu"]) == 0
    assert (tmp_path / "command" / "submission.csv").read_bytes() == path.read_bytes()
    labels = pd.read_csv(world / "data" / "train.csv")
    assert lumbar.score(labels, results.submission).total > 0


def test_a_call_with_a_folder_keeps_what_is_finished_until_it_is_saved(
    world: Path, results: lumbar.Results, tmp_path: Path
) -> None:
    data, bundle = lumbar.open_data(world / "data"), lumbar.load_bundle(world / "weights")
    kept = lumbar.grade(data, bundle, device="cpu", out=tmp_path, progress=False)
    assert len(list((tmp_path / "finished").glob("*.safetensors"))) == 2
    pd.testing.assert_frame_equal(kept.submission, results.submission, atol=1e-6)
    kept.save(tmp_path)
    assert not (tmp_path / "finished").exists()


def test_the_module_is_the_command(root: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "lumbar", "--version"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.stdout == f"lumbar {lumbar.__version__}\n"


def test_the_manual_names_all_of_it_and_nothing_else(root: Path) -> None:
    text = (root / "docs" / "api.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(.+?)` \|", text, re.MULTILINE)
    functions = {row.partition("(")[0].removeprefix("lumbar."): row for row in rows if row.startswith("lumbar.")}
    assert set(functions) == set(lumbar.__all__) - {"__version__", "Results"}
    told = {name for row in rows for name in re.findall(r"results\.(\w+)", row)}
    there = {name for name in vars(lumbar.Results) if not name.startswith("_")} | {"data", "bundle"}
    assert told == there
    parameters = inspect.signature(lumbar.grade).parameters
    defaults = {name: one.default for name, one in parameters.items() if one.default is not inspect.Parameter.empty}
    for name, default in defaults.items():
        word = f'"{default}"' if isinstance(default, str) else str(default)
        assert f"{name}={word}" in functions["grade"]
