"""What ships: the bundle in `weights` and the phantom studies in `sample_data`."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pydicom import dcmread
from pydicom.uid import RLELossless

from lumbar import submission
from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.labels import CONDITIONS, SEVERITIES, mirrored
from lumbar.metric import read_labels, score, weighted_prior
from lumbar.prediction import schedule
from lumbar.prediction.outputs import write_outputs
from lumbar.prediction.result import StudyResult
from lumbar.study.study import DataFolder, open_data
from tests.conftest import ROOT
from tests.support.mirror import mirror_study

#: Agreement of the shipped submission between machines and library versions, on a CPU in float32.
EXPECTED_TOLERANCE = 1e-3
#: Ordinary studies to mirror, and how far a probability may move when left and right change places.
MIRRORED = (100001, 100002)
MIRROR_MEAN, MIRROR_MAX = 0.03, 0.3


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(ROOT / "weights")


@pytest.fixture(scope="module")
def data() -> DataFolder:
    return open_data(ROOT / "sample_data")


@pytest.fixture(scope="module")
def results(data: DataFolder, bundle: Bundle) -> list[StudyResult]:
    return list(schedule.predict(data, bundle))


def _megabytes(folder: Path) -> float:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) / 1e6


def test_what_ships_is_small_and_the_bundle_is_half_precision() -> None:
    assert _megabytes(ROOT / "sample_data") <= 16
    assert _megabytes(ROOT / "weights") <= 28


def test_sample_studies_show_what_real_data_does(data: DataFolder) -> None:
    types = data.series.groupby("study_id")["series_description"].apply(list)
    assert len(types) >= 6
    assert sum("Sagittal T1" not in listed for listed in types) == 1
    assert sum(listed.count("Axial T2") == 2 for listed in types) == 1
    assert data.coordinates is not None
    assert data.labels is not None
    axial = data.coordinates[data.coordinates["condition"].str.contains("subarticular")]
    assert (axial.groupby("study_id")["level"].nunique() < 5).sum() == 1
    files = [next((data.image_folder / str(study)).glob("*/*.dcm")) for study in data.study_ids]
    syntaxes = [dcmread(file, stop_before_pixels=True).file_meta.TransferSyntaxUID for file in files]
    assert syntaxes.count(RLELossless) == 1


def test_the_shipped_bundle_gives_the_expected_submission(
    results: list[StudyResult], data: DataFolder, bundle: Bundle, tmp_path: Path
) -> None:
    found = pd.read_csv(write_outputs(results, data, bundle, tmp_path)).set_index("row_id")
    expected = pd.read_csv(ROOT / "sample_data" / "expected_submission.csv").set_index("row_id")
    assert sorted(found.index) == sorted(expected.index)
    difference = (found.loc[expected.index, list(SEVERITIES)] - expected[list(SEVERITIES)]).abs()
    assert difference.to_numpy().max() <= EXPECTED_TOLERANCE


def test_no_numbering_of_the_sample_studies_is_doubtful(results: list[StudyResult]) -> None:
    assert len(results) == 6
    assert not [issue for result in results for issue in result.issues if issue.code == "levels_ambiguous"]


def test_the_shipped_bundle_beats_the_prior_of_the_very_studies(results: list[StudyResult], data: DataFolder) -> None:
    """A weak floor for six studies; the README's figure on held-out phantoms is measured by a benchmark."""
    labels = read_labels(data.root / "train.csv")
    ids = [result.study_id for result in results]
    graded = submission.to_rows(ids, np.stack([result.probabilities for result in results]))
    constant = submission.to_rows(ids, np.stack([weighted_prior(labels)] * len(ids)))
    assert score(labels, graded).total < 0.7 * score(labels, constant).total


def test_a_mirrored_study_swaps_left_and_right_through_the_whole_pipeline(
    results: list[StudyResult], data: DataFolder, bundle: Bundle, tmp_path: Path
) -> None:
    """Split graders see both sides alike, so what is left is what the detectors and the global network find different
    when the order of the sagittal slices is reversed."""
    twin = tmp_path / "data"
    for table in data.root.glob("train*.csv"):
        twin.mkdir(exist_ok=True)
        shutil.copy(table, twin)
    for study_id in MIRRORED:
        mirror_study(data.image_folder / str(study_id), twin / "train_images" / str(study_id))
    swapped = [CONDITIONS.index(mirrored(condition)) for condition in CONDITIONS]
    there = list(schedule.predict(open_data(twin), bundle, study_ids=MIRRORED))
    here = [result for result in results if result.study_id in MIRRORED]
    change, asymmetry = [], []
    for first, second in zip(here, there, strict=True):
        change.append(np.abs(second.probabilities - first.probabilities[swapped]))
        asymmetry.append(np.abs(first.probabilities[swapped] - first.probabilities))
    assert np.mean(change) <= MIRROR_MEAN
    assert np.max(change) <= MIRROR_MAX
    sided = np.s_[:, 1:]
    assert np.max(np.stack(asymmetry)[sided]) > 2 * MIRROR_MAX  # the sides differ by more than the tolerance
