"""Trees of DICOM files as discs and hospitals hold them: what the tests of `lumbar.study.folder` share."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import train_utils
from lumbar.labels import LABEL_COLUMNS, SERIES_TYPES, SEVERITIES
from lumbar.study.folder import list_folder
from lumbar.study.study import DataFolder, Study
from tests.support.worlds import small_phantoms, tiny_bundle

Run = Callable[..., tuple[int, str, str]]


def phantoms_and_bundle(root: Path) -> Path:
    """Two phantom studies with tables in `data`, and a bundle in `weights`."""
    small_phantoms(root / "data", variations={0: {"two_axial": False}, 1: {"two_axial": False}})
    tiny_bundle(root / "weights")
    return root


def command(capfd: pytest.CaptureFixture[str]) -> Run:
    """The command line, called with words: exit code, standard output, standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        try:
            code = train_utils.main([str(word) for word in words])
        except SystemExit as ended:
            code = int(ended.code or 0)
        told = capfd.readouterr()
        return code, told.out, told.err

    return call


def predict(run: Run, data: Path, world: Path, out: Path, *more: object) -> pd.DataFrame:
    """The submission by study and row."""
    code, _, err = run(
        "predict", "--data", data, "--weights", world / "weights", "--out", out, "--device", "cpu", *more
    )
    assert code == 0, err
    return pd.read_csv(out / "submission.csv", index_col="row_id")


def rows(table: pd.DataFrame, study: int) -> np.ndarray:
    """A study's probabilities, rows in the order of `LABEL_COLUMNS`."""
    return table.loc[[f"{study}_{column}" for column in LABEL_COLUMNS], list(SEVERITIES)].to_numpy()


def series_of(files: DataFolder, study: int, part: str) -> list[Path]:
    """Files of a study's series of that part."""
    table = files.series
    number = table.loc[(table["study_id"] == study) & (table["series_description"] == part), "series_id"].iloc[0]
    return files.series_files(study, int(number))


def a_list(tree: Path, out: Path) -> pd.DataFrame:
    """`series.csv` of a tree."""
    list_folder(tree, out)
    return pd.read_csv(out / "series.csv", keep_default_na=False)


def assert_same(one: Study, other: Study) -> None:
    """The same series in the same parts, slice by slice, under the same numbers."""
    for kind in SERIES_TYPES:
        assert len(one.series[kind]) == len(other.series[kind]) == 1
        first, second = one.series[kind][0], other.series[kind][0]
        np.testing.assert_array_equal(first.affines, second.affines)
        assert [item.instance for item in first.slices] == [item.instance for item in second.slices]
        for a, b in zip(first.ordered("file"), second.ordered("file"), strict=True):
            np.testing.assert_array_equal(a.pixels, b.pixels)
