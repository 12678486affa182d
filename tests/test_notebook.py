"""The notebook is short, holds no output, and leaves a valid submission under the conditions it will meet."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pandas as pd
import pytest

from lumbar.bundle.bundle import load_bundle
from lumbar.bundle.network import build_network
from lumbar.bundle.save import Weights, save_bundle
from lumbar.issues import InputError
from lumbar.labels import LABEL_COLUMNS, SEVERITIES, SUBMISSION_COLUMNS
from lumbar.phantom.dataset import study_ids
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from tests.support.archives import VENDORS, copy_study
from tests.support.notebook import NOTEBOOK, run_cells
from tests.support.worlds import small_phantoms

pytestmark = pytest.mark.usefixtures("networks_kept")

ROOT = Path(__file__).resolve().parents[1]
ENCODER = {"encoder": "tu-resnet18", "encoder_args": {"channels": [8, 16, 16, 32], "layers": [1, 1, 1, 1]}}
#: Ids of the two studies.
ONE, OTHER = study_ids(2, 5, None)
PRIOR = np.broadcast_to(np.linspace([0.8, 0.1, 0.1], [0.5, 0.3, 0.2], 5), (5, 5, 3))


@pytest.fixture(scope="module")
def cells() -> list[Any]:
    return nbformat.read(NOTEBOOK, as_version=4).cells


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small labelled phantom studies."""
    return small_phantoms(tmp_path_factory.mktemp("studies"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of both stages with random weights: enough to run every step, good for nothing else."""
    import torch

    torch.manual_seed(0)
    detectors = [
        DetectorSpec(series_type="sagittal_t2", in_chans=5, num_classes=5, image_size=64, **ENCODER),
        DetectorSpec(series_type="sagittal_t1", in_chans=3, num_classes=5, image_size=64, **ENCODER),
        DetectorSpec(series_type="axial_t2", in_chans=3, num_classes=2, image_size=64, **ENCODER),
    ]
    grader = GraderSpec(
        task="global", backbone_args={"channels": [8, 8, 8, 8], "layers": [1, 1, 1, 1]}, image_size=32, slices=3,
        rnn_hidden=8, rnn_layers=1,
    )  # fmt: skip
    specs = {"t2": detectors[0], "t1": detectors[1], "axial": detectors[2], "global": grader}
    members = [Weights(name, spec, build_network(spec).state_dict()) for name, spec in specs.items()]
    return save_bundle(tmp_path_factory.mktemp("bundle"), members, prior=PRIOR, description="random weights").folder


def execute(out: Path, data: Path, weights: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the notebook as the README does, into `out`."""
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", str(NOTEBOOK)]
    places = {"LUMBAR_DATA": str(data), "LUMBAR_WEIGHTS": str(weights), "LUMBAR_OUT": str(out)}
    return subprocess.run(
        [*command, "--output-dir", str(out), "--output", "executed.ipynb"],
        env={**os.environ, "OMP_NUM_THREADS": "1", **places, **environment},
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )


def outputs(folder: Path) -> str:
    """Everything that the executed notebook shows, as text."""
    shown = nbformat.read(folder / "executed.ipynb", as_version=4).cells
    return json.dumps([cell.outputs for cell in shown if cell.cell_type == "code"])


def check_submission(path: Path, study_ids: list[int]) -> pd.DataFrame:
    table = pd.read_csv(path)
    assert tuple(table.columns) == SUBMISSION_COLUMNS
    assert set(table["row_id"]) == {f"{study}_{column}" for study in study_ids for column in LABEL_COLUMNS}
    assert len(table) == 25 * len(study_ids)
    values = table[list(SEVERITIES)].to_numpy()
    assert (values > 0).all()
    assert values.sum(axis=1) == pytest.approx(np.ones(len(values)), abs=1e-6)
    return table.set_index("row_id")


def test_the_notebook_is_a_valid_notebook() -> None:
    nbformat.validate(nbformat.read(NOTEBOOK, as_version=nbformat.NO_CONVERT))


def test_the_notebook_has_at_most_a_dozen_short_cells_with_words_between(cells: list[Any]) -> None:
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert 5 <= len(code) <= 12
    assert max(len(cell.source.splitlines()) for cell in code) <= 25
    assert sum(cell.cell_type == "markdown" for cell in cells) >= len(code) - 1
    assert cells[0].cell_type == "markdown"


def test_the_notebook_stores_no_output(cells: list[Any]) -> None:
    for cell in cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


def test_the_notebook_defines_nothing(cells: list[Any]) -> None:
    for cell in cells:
        if cell.cell_type == "code":
            source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
            kinds = {type(node) for node in ast.walk(ast.parse(source))}
            assert not kinds & {ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda}


def test_every_name_that_the_notebook_imports_exists(cells: list[Any]) -> None:
    import train_utils

    (imported,) = [
        node
        for cell in cells
        if cell.cell_type == "code" and "from train_utils import" in cell.source
        for node in ast.parse(cell.source.replace("%matplotlib inline", "")).body
        if isinstance(node, ast.ImportFrom) and node.module == "train_utils"
    ]
    for name in imported.names:
        assert callable(getattr(train_utils, name.name))


@pytest.mark.parametrize("place", ["lumbar-code", "lumbar-code/checkout", "datasets/someone/lumbar-code/checkout"])
def test_attached_code_is_found_in_both_mount_layouts(cells: list[Any], tmp_path: Path, place: str) -> None:
    attached = tmp_path / "kaggle" / "input" / place
    shutil.copytree(ROOT / "lumbar", attached / "lumbar", ignore=shutil.ignore_patterns("__pycache__"))
    script = tmp_path / "kaggle" / "usr" / "lib" / "train_utils"
    script.mkdir(parents=True)
    shutil.copy(ROOT / "train_utils.py", script)
    bootstrap = next(cell.source for cell in cells if cell.cell_type == "code")
    assert '"/kaggle/' in bootstrap
    program = bootstrap.replace('"/kaggle/', f'"{tmp_path}/kaggle/')
    program += "\nimport lumbar, train_utils\nprint(lumbar.__file__, train_utils.__file__)\n"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == [str(attached / "lumbar" / "__init__.py"), str(script / "train_utils.py")]


def test_without_code_the_notebook_says_what_to_attach(cells: list[Any], tmp_path: Path) -> None:
    bootstrap = next(cell.source for cell in cells if cell.cell_type == "code").replace('"/kaggle/', f'"{tmp_path}/')
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    ended = subprocess.run(
        [sys.executable, "-c", bootstrap], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode != 0
    assert ended.stderr.splitlines()[-1] == (
        "AssertionError: No folder lumbar: attach the weights dataset with Add Input, or open this notebook in its "
        "checkout."
    )


def test_a_labelled_folder_gets_submission_pictures_issues_and_score(
    tmp_path: Path, studies: Path, bundle: Path
) -> None:
    shown = run_cells(tmp_path, studies, bundle)
    assert shown.error is None
    check_submission(tmp_path / "submission.csv", [ONE, OTHER])
    assert (tmp_path / "keypoints.csv").is_file()
    report = json.loads((tmp_path / "run_report.json").read_text())
    assert report["bundle"]["identity"] == load_bundle(bundle).identity
    assert report["options"]["on_error"] == "fail"
    assert shown.figures == 2
    assert "random weights" in shown.text
    assert "any_severe_spinal" in shown.text
    assert "keypoint_low_confidence" in shown.text


def test_a_tree_without_tables_is_graded_as_well(tmp_path: Path, studies: Path, bundle: Path) -> None:
    tree = tmp_path / "tree"
    copy_study(studies / "train_images" / str(ONE), tree, VENDORS["GE"])
    shown = run_cells(tmp_path / "out", tree, bundle)
    assert shown.error is None
    check_submission(tmp_path / "out" / "submission.csv", [1])
    assert pd.read_csv(tmp_path / "out" / "studies.csv")["study_id"].tolist() == [1]
    assert "These studies have no labels" in shown.text


def spoil(studies: Path, copy: Path) -> Path:
    """The same folder with every file of the second study cut short."""
    shutil.copytree(studies, copy)
    for path in (copy / "train_images" / str(OTHER)).rglob("*.dcm"):
        path.write_bytes(path.read_bytes()[:200])
    return copy


def test_the_hidden_rerun_always_leaves_a_submission(tmp_path: Path, studies: Path, bundle: Path) -> None:
    spoiled = spoil(studies, tmp_path / "data")
    shown = run_cells(tmp_path, spoiled, bundle, KAGGLE_IS_COMPETITION_RERUN="1")
    assert shown.error is None
    table = check_submission(tmp_path / "submission.csv", [ONE, OTHER])
    unreadable = table.loc[[f"{OTHER}_{column}" for column in LABEL_COLUMNS]].to_numpy()
    assert unreadable == pytest.approx(PRIOR.reshape(25, 3), abs=1e-9)
    report = json.loads((tmp_path / "run_report.json").read_text())
    assert report["failed_studies"] == [OTHER]
    assert report["options"]["hours"] == 8.5, "Kaggle allows nine"
    assert "study_failed" in shown.text
    assert shown.figures == 0


def test_an_unreadable_study_stops_an_ordinary_run_with_its_reason(tmp_path: Path, studies: Path, bundle: Path) -> None:
    shown = run_cells(tmp_path, spoil(studies, tmp_path / "data"), bundle)
    assert isinstance(shown.error, InputError)
    assert f"study {OTHER}" in str(shown.error)
    assert not (tmp_path / "submission.csv").exists()


@pytest.fixture
def shipped(tmp_path: Path) -> tuple[Path, Path, list[int]]:
    """A data folder of the first two sample studies, the shipped weights, and the studies' ids."""
    data, weights = ROOT / "sample_data", ROOT / "weights"
    if not (data / "train_series_descriptions.csv").is_file() or not (weights / "manifest.json").is_file():
        pytest.skip("needs sample_data and weights")
    table = pd.read_csv(data / "train_series_descriptions.csv")
    chosen = list(dict.fromkeys(table["study_id"]))[:2]
    small = tmp_path / "data"
    small.mkdir()
    table[table["study_id"].isin(chosen)].to_csv(small / "train_series_descriptions.csv", index=False)
    labels = pd.read_csv(data / "train.csv")
    labels[labels["study_id"].isin(chosen)].to_csv(small / "train.csv", index=False)
    for study in chosen:
        shutil.copytree(data / "train_images" / str(study), small / "train_images" / str(study))
    return small, weights, chosen


#: What the shipped bundle says of itself.
RESTS_ON = "What the severities rest on: spinal: learnt from phantoms and patients"


def test_what_ships_runs_through_the_cells(tmp_path: Path, shipped: tuple[Path, Path, list[int]]) -> None:
    data, weights, chosen = shipped
    shown = run_cells(tmp_path, data, weights)
    assert shown.error is None
    check_submission(tmp_path / "submission.csv", chosen)
    assert shown.figures == 2
    assert RESTS_ON in shown.text


@pytest.mark.slow
def test_what_ships_runs_as_it_is(tmp_path: Path, shipped: tuple[Path, Path, list[int]]) -> None:
    """By a kernel of its own, as the README does it; `.ci/run` calls that very command on all of the sample data."""
    data, weights, chosen = shipped
    ended = execute(tmp_path, data, weights)
    assert ended.returncode == 0, ended.stderr[-2000:]
    check_submission(tmp_path / "submission.csv", chosen)
    shown = outputs(tmp_path)
    assert shown.count("image/png") == 2
    assert "Warning" not in shown
    assert RESTS_ON in shown
