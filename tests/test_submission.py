"""Files and rows that leave the project: whole or not at all, valid or refused."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumbar.files import write
from lumbar.files.read import read_table
from lumbar.files.write import replacing, write_bytes, write_csv, write_json, write_text
from lumbar.issues import InputError
from lumbar.labels import CONDITIONS, LEVELS, SEVERITIES, SUBMISSION_COLUMNS, row_id
from lumbar.submission import DECIMALS, FLOOR, rounded, to_rows, validate

STUDIES = [44036939, 7, 1001]


def distributions(seed: int = 0, studies: int = 3) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet([1.5, 0.8, 0.5], size=(studies, 5, 5))


def cell(frame: pd.DataFrame, study: int, condition: int, level: int) -> np.ndarray:
    name = row_id(study, CONDITIONS[condition], LEVELS[level])
    return frame.set_index("row_id").loc[name, list(SEVERITIES)].to_numpy(dtype=float)


# --- rows -----------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, 10**12), min_size=1, max_size=4, unique=True), st.integers(0, 2**32 - 1))
def test_every_probability_stands_in_the_row_of_its_name(studies, seed):
    probabilities = (distributions(seed, len(studies)) + 1e-4) / (1 + 3e-4)
    frame = to_rows(studies, probabilities)
    assert tuple(frame.columns) == SUBMISSION_COLUMNS
    assert len(frame) == 25 * len(studies)
    for place, study in enumerate(studies):
        for condition, level in [(0, 0), (1, 4), (4, 2)]:
            found = cell(frame, study, condition, level)
            np.testing.assert_allclose(found, probabilities[place, condition, level], atol=1e-12)
    validate(frame, studies)


@given(st.integers(0, 2**32 - 1), st.floats(1e-30, 1))
def test_file_holds_every_digit_that_matters(tmp_path, seed, share):
    probabilities = distributions(seed) * share
    probabilities[..., 0] += 1 - share
    probabilities[0] = [0.7, 0.2, 0.1]  # studies must differ
    frame = to_rows(STUDIES, probabilities)
    write_csv(frame, tmp_path / "submission.csv")
    read = pd.read_csv(tmp_path / "submission.csv")
    assert read["row_id"].tolist() == frame["row_id"].tolist()
    np.testing.assert_allclose(read[list(SEVERITIES)], frame[list(SEVERITIES)], atol=1e-9, rtol=1e-9)
    np.testing.assert_allclose(read[list(SEVERITIES)].sum(axis=1), 1, atol=1e-12)
    validate(read, STUDIES)


@given(st.integers(0, 2**32 - 1), st.sampled_from([np.float32, np.float64]))
def test_sums_in_another_order_change_no_digit(seed, kind):
    """Numbers that no rounding border separates: multiples of the last digit, and what other batches make of them."""
    rng = np.random.default_rng(seed)
    unit = 10.0**-DECIMALS
    counts = rng.multinomial(10**DECIMALS, rng.dirichlet([0.5, 0.3, 0.2]), size=(3, 5, 5))
    noise = rng.uniform(-1e-6, 1e-6, counts.shape)
    other = np.abs(counts * unit + noise).astype(kind)
    written = rounded(to_rows(STUDIES, other))
    pd.testing.assert_frame_equal(written, rounded(to_rows(STUDIES, counts * unit)), check_exact=True)
    np.testing.assert_allclose(written[list(SEVERITIES)], other.reshape(-1, 3), atol=1.02 * unit)
    validate(written, STUDIES)


def test_an_underflowed_probability_is_raised_to_the_floor():
    probabilities = distributions()
    probabilities[1, 2, 3] = [1, 0, 0]
    frame = to_rows(STUDIES, probabilities)
    np.testing.assert_allclose(cell(frame, 7, 2, 3), [1 - 2 * FLOOR, FLOOR, FLOOR], rtol=1e-5)
    validate(frame, STUDIES)


def test_single_precision_probabilities_still_sum_to_one():
    validate(to_rows(STUDIES, distributions().astype(np.float32)), STUDIES)


@pytest.mark.parametrize("bad", [[np.nan] * 3, [0.5, 0.6, -0.1], [np.inf, 0, 0], [0, 0, 0], [2.0, 1.0, 0.5]])
def test_cell_that_is_no_distribution_becomes_no_row(bad):
    probabilities = distributions()
    probabilities[0, 4, 4] = bad
    with pytest.raises(ValueError, match="probabilit"):
        to_rows(STUDIES, probabilities)


def test_study_without_its_probabilities_is_refused():
    with pytest.raises(ValueError, match=r"not \(3 studies"):
        to_rows(STUDIES, distributions(studies=2))


# --- validation -----------------------------------------------------------------------------------------------------


def spoil(column: str, value: object):
    def spoiled(frame: pd.DataFrame) -> pd.DataFrame:
        frame = frame.astype({column: object})
        frame.loc[30, column] = value
        return frame

    return spoiled


FAULTS = {
    "lacks 1 row.*7_left_neural_foraminal_narrowing_l1_l2": lambda f: f.drop(index=30),
    "lacks 25 row.*1001_": lambda f: f[:50],
    "1 row.* of no wanted study.*8_x": lambda f: pd.concat([f, f[:1].assign(row_id="8_x")]),
    "row 44036939_spinal_canal_stenosis_l1_l2 more than once": lambda f: pd.concat([f, f[:1]]),
    "columns are": lambda f: f[["row_id", "moderate", "normal_mild", "severe"]],
    "columns are .*extra": lambda f: f.assign(extra=0),
    "7_left_neural_foraminal_narrowing_l1_l2 holds a number that is missing": spoil("severe", np.nan),
    "foraminal_narrowing_l1_l2 holds a number that is missing or infinite": spoil("severe", np.inf),
    "7_left_neural_foraminal_narrowing_l1_l2 holds a probability that is zero or negative": spoil("severe", 0.0),
    "narrowing_l1_l2 holds a probability that is zero or negative": spoil("severe", -0.2),
    "7_left_neural_foraminal_narrowing_l1_l2 does not sum to 1": spoil("severe", 0.99999),
}


@pytest.mark.parametrize("message", FAULTS)
def test_spoiled_submission_is_refused(message):
    with pytest.raises(InputError, match=message):
        validate(FAULTS[message](to_rows(STUDIES, distributions())), STUDIES)


def test_study_listed_twice_is_refused():
    with pytest.raises(InputError, match="is wanted twice; list its study once"):
        validate(to_rows([7, 7], distributions(studies=2)), [7, 7])


def test_order_of_rows_is_free():
    frame = to_rows(STUDIES, distributions())
    validate(frame.sample(frac=1, random_state=0), STUDIES[::-1])


def test_same_predictions_for_all_graded_studies_are_refused():
    constant = np.repeat(distributions(studies=1), 3, axis=0)
    with pytest.raises(InputError, match="all 3 studies have the same 25 predictions"):
        validate(to_rows(STUDIES, constant), STUDIES)
    varied = distributions()
    varied[:2] = constant[:2]
    validate(to_rows(STUDIES, varied), STUDIES)
    with pytest.raises(InputError, match="all 2 studies"):  # the third differs only because it got the prior
        validate(to_rows(STUDIES, varied), STUDIES, prior_studies={1001})


def test_prior_for_all_or_all_but_one_is_accepted():
    constant = np.repeat(distributions(studies=1), 3, axis=0)
    validate(to_rows(STUDIES, constant), STUDIES, prior_studies=STUDIES)
    validate(to_rows(STUDIES, constant), STUDIES, prior_studies=STUDIES[:2])
    validate(to_rows([7], constant[:1]), [7])


# --- files ----------------------------------------------------------------------------------------------------------


def test_writers_leave_the_file_and_nothing_else(tmp_path):
    folder = tmp_path / "new" / "folder"
    write_bytes(b"\x00\xff", folder / "a.bin")
    write_text("Grüße\n", folder / "a.txt")
    write_json({"n": np.int64(3), "x": np.float32(0.5), "a": np.arange(3), "t": "°"}, folder / "a.json")
    write_csv(pd.DataFrame({"x": [0.1, 1e-300], "y": ["a", None]}, index=[5, 9]), folder / "a.csv")
    assert (folder / "a.bin").read_bytes() == b"\x00\xff"
    assert (folder / "a.txt").read_bytes() == "Grüße\n".encode()
    assert json.loads((folder / "a.json").read_text(encoding="utf-8")) == {"n": 3, "x": 0.5, "a": [0, 1, 2], "t": "°"}
    assert (folder / "a.csv").read_bytes() == b"x,y\n0.1,a\n1e-300,\n"
    assert sorted(path.name for path in folder.iterdir()) == ["a.bin", "a.csv", "a.json", "a.txt"]


def test_new_file_has_the_permissions_of_any_other(tmp_path):
    write_text("a", tmp_path / "atomic")
    (tmp_path / "plain").write_text("a", encoding="utf-8")
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_failed_writer_leaves_the_old_file_and_no_rubbish(tmp_path):
    path = tmp_path / "a.txt"
    write_text("old", path)

    def half_written() -> None:
        with replacing(path) as temporary:
            assert temporary.parent == path.parent
            assert temporary.suffix == ".txt"
            temporary.write_text("half", encoding="utf-8")
            raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space"):
        half_written()
    assert path.read_text(encoding="utf-8") == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_on_the_disk_before_it_takes_the_name(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(write.os, "fsync", lambda descriptor: (events.append("fsync"), fsync(descriptor))[1])
    monkeypatch.setattr(Path, "replace", lambda self, target: (events.append("replace"), replace(self, target))[1])
    write_text("a", tmp_path / "a.txt")
    assert events[:2] == ["fsync", "replace"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": object()}, np.array([np.nan])])
def test_what_json_has_no_word_for_is_not_written(tmp_path, value):
    with pytest.raises((ValueError, TypeError)):
        write_json(value, tmp_path / "a.json")
    assert list(tmp_path.iterdir()) == []


def test_text_columns_stay_text(tmp_path):
    (tmp_path / "a.csv").write_text("\ufeffid,name\n1,007\n2,\n", encoding="utf-8")
    frame = read_table(tmp_path / "a.csv", ["id"], text=["name"])
    assert frame["name"].tolist()[0] == "007"
    assert frame["name"].isna().tolist() == [False, True]
    with pytest.raises(InputError, match=r"a\.csv lacks the column\(s\) b, c, d, e, f and 1 more"):
        read_table(tmp_path / "a.csv", list("bcdefg"))
