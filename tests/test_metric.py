"""The official score: against numbers known for the real tables, scikit-learn, and the traps of the original."""

import json
import math
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import log_loss

from lumbar.issues import InputError
from lumbar.labels import CONDITION_GROUPS, CONDITIONS, LABEL_COLUMNS, SEVERITIES, SEVERITY_LABELS
from lumbar.metric import (
    Score,
    label_codes,
    prediction_array,
    read_labels,
    read_predictions,
    score,
    score_arrays,
    weighted_prior,
)
from lumbar.submission import to_rows

WORDS = np.array([*SEVERITY_LABELS, None], dtype=object)  # the last for code -1


def label_table(codes: np.ndarray) -> pd.DataFrame:
    """Codes (N, 5, 5) as a label table of studies 100, 101, …"""
    frame = pd.DataFrame(WORDS[codes.reshape(len(codes), -1)], columns=list(LABEL_COLUMNS))
    frame.insert(0, "study_id", range(100, 100 + len(codes)))
    return frame


def distributions(seed: int, studies: int) -> np.ndarray:
    """Probabilities (studies, 5, 5, 3), none below 1e-4, so that no floor touches them."""
    drawn = np.random.default_rng(seed).dirichlet([1.5, 0.8, 0.5], size=(studies, 5, 5))
    return (drawn + 1e-4) / (1 + 3e-4)


@st.composite
def cases(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Codes with some labels empty, none of the groups wholly, and probabilities."""
    studies = draw(st.integers(1, 6))
    codes = draw(hnp.arrays(np.int64, (studies, 5, 5), elements=st.integers(-1, 2)))
    codes[0, [0, 1, 3], 0] = draw(hnp.arrays(np.int64, 3, elements=st.integers(0, 2)))
    return codes, distributions(draw(st.integers(0, 2**32 - 1)), studies)


def sklearn_score(codes: np.ndarray, probabilities: np.ndarray) -> list[float]:
    """The four parts as the competition's host computes them, by scikit-learn's log_loss."""
    parts = []
    for conditions in CONDITION_GROUPS.values():
        places = [CONDITIONS.index(condition) for condition in conditions]
        truth, rows = codes[:, places].reshape(-1), probabilities[:, places].reshape(-1, 3)
        truth, rows = truth[truth >= 0], rows[truth >= 0]
        parts.append(log_loss(truth, rows, labels=[0, 1, 2], sample_weight=2.0**truth))
    studies = [study for study in range(len(codes)) if (codes[study, 0] >= 0).any()]
    worst = np.array([codes[study, 0].max() for study in studies])
    severe = np.array([probabilities[study, 0, codes[study, 0] >= 0, 2].max() for study in studies])
    pairs = np.stack([1 - severe, severe], axis=1)
    return [*parts, log_loss(worst == 2, pairs, labels=[False, True], sample_weight=2.0**worst)]


@given(cases())
def test_each_part_agrees_with_scikit_learn(case):
    codes, probabilities = case
    result = score(label_table(codes), to_rows(range(100, 100 + len(codes)), probabilities))
    parts = [result.spinal, result.foraminal, result.subarticular, result.any_severe_spinal]
    np.testing.assert_allclose(parts, sklearn_score(codes, probabilities), rtol=1e-9)
    assert result.total == pytest.approx(np.mean(parts), abs=1e-12)


@given(cases(), st.randoms(use_true_random=False))
def test_order_of_rows_and_columns_changes_nothing(case, random):
    codes, probabilities = case
    labels, predictions = label_table(codes), to_rows(range(100, 100 + len(codes)), probabilities)
    shuffled = predictions.iloc[random.sample(range(len(predictions)), len(predictions))]
    columns = random.sample(list(labels.columns), len(labels.columns))
    mixed = labels.iloc[::-1][columns]
    for other in (score(labels, shuffled), score(mixed, predictions), score(mixed, shuffled[shuffled.columns[::-1]])):
        assert other.total == pytest.approx(score(labels, predictions).total, rel=1e-12)


@given(cases(), st.floats(1e-3, 1e3))
def test_rows_are_renormalised(case, factor):
    codes, probabilities = case
    assert score_arrays(codes, probabilities * factor).total == pytest.approx(
        score_arrays(codes, probabilities).total, rel=1e-9
    )


@given(cases())
def test_rows_without_a_label_are_not_scored(case):
    codes, probabilities = case
    labels = label_table(codes)
    predictions = to_rows(range(100, 100 + len(codes)), probabilities)
    labelled = predictions[codes.reshape(-1) >= 0]
    stranger = to_rows([999], distributions(0, 1))
    expected = score(labels, predictions).total
    assert score(labels, labelled).total == expected
    assert score(labels, pd.concat([stranger, predictions])).total == expected


def test_study_ids_in_the_index_and_own_severity_words_are_read_too():
    codes = np.random.default_rng(0).integers(-1, 3, (4, 5, 5))
    labels = label_table(codes)
    own = labels.set_index("study_id").replace(SEVERITY_LABELS)
    for table in (labels, labels.set_index("study_id"), own):
        studies, found = label_codes(table)
        assert studies.tolist() == [100, 101, 102, 103]
        np.testing.assert_array_equal(found, codes)


@pytest.mark.parametrize("code", [0, 1, 2])
def test_labels_that_all_agree_have_a_score(code):
    codes = np.full((3, 5, 5), code)
    result = score_arrays(codes, np.full((3, 5, 5, 3), [0.5, 0.3, 0.2]))
    expected = -math.log([0.5, 0.3, 0.2][code])
    assert [result.spinal, result.foraminal, result.subarticular] == pytest.approx([expected] * 3)
    assert result.any_severe_spinal == pytest.approx(-math.log(0.2 if code == 2 else 0.8))


def test_a_certain_mistake_costs_a_finite_amount():
    wrong = np.zeros((1, 5, 5, 3))
    wrong[..., 0] = 1
    result = score_arrays(np.full((1, 5, 5), 2), wrong)
    assert result.total == pytest.approx(-math.log(np.finfo(float).eps))
    assert score_arrays(np.zeros((1, 5, 5), dtype=int), wrong).total == pytest.approx(0, abs=1e-12)


def test_any_severe_takes_the_worst_level_and_the_largest_probability():
    codes = np.zeros((2, 5, 5), dtype=int)
    codes[0, 0] = [0, 1, 2, -1, 0]  # severe: weight 4
    codes[1, 0] = [0, 0, 1, 0, 0]  # not severe: weight 2
    probabilities = np.full((2, 5, 5, 3), 1 / 3)
    probabilities[0, 0, :, 2] = [0.1, 0.4, 0.2, 0.9, 0.1]  # the .9 has no label
    probabilities[1, 0, :, 2] = [0.1, 0.1, 0.1, 0.1, 0.3]
    probabilities[:, 0, :, :2] = (1 - probabilities[:, 0, :, 2:]) / 2
    expected = -(4 * math.log(0.4) + 2 * math.log(0.7)) / 6
    assert score_arrays(codes, probabilities).any_severe_spinal == pytest.approx(expected)


def test_a_member_of_one_group_is_scored_on_it_alone():
    codes = np.random.default_rng(1).integers(0, 3, (5, 5, 5))
    probabilities = distributions(1, 5)
    own = np.full_like(codes, -1)
    own[:, 1:3] = codes[:, 1:3]
    result = score_arrays(own, np.where((own >= 0)[..., None], probabilities, np.nan))
    assert result.foraminal == score_arrays(codes, probabilities).foraminal
    assert math.isnan(result.spinal)
    assert math.isnan(result.any_severe_spinal)
    assert math.isnan(result.total)


def test_score_can_be_read_by_people_and_programs():
    result = Score(0.5, 0.25, 0.5, 0.75, 0.123456)
    assert json.loads(result.to_json()) == asdict(result)
    assert str(result).splitlines()[0].split() == ["total", "0.5000"]
    assert str(result).splitlines()[4].split() == ["any_severe_spinal", "0.1235"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -0.1])
def test_array_with_a_labelled_row_that_is_no_distribution_is_refused(bad):
    probabilities = distributions(0, 2)
    probabilities[1, 2, 3, 0] = bad
    with pytest.raises(ValueError, match="labelled row"):
        score_arrays(np.zeros((2, 5, 5), dtype=int), probabilities)


def test_missing_prediction_of_a_labelled_row_is_named():
    codes = np.zeros((2, 5, 5), dtype=int)
    predictions = to_rows([100, 101], distributions(0, 2))
    with pytest.raises(InputError, match=r"lack 1 labelled row.*101_left_subarticular_stenosis_l2_l3"):
        score(label_table(codes), predictions[predictions["row_id"] != "101_left_subarticular_stenosis_l2_l3"])


def test_no_predictions_at_all_are_told_like_missing_ones():
    labels = label_table(np.zeros((2, 5, 5), dtype=int))
    with pytest.raises(InputError, match=r"lack 50 labelled row"):
        score(labels, to_rows([], np.empty((0, 5, 5, 3))))


def test_group_without_any_label_leaves_the_score_undefined():
    codes = np.zeros((2, 5, 5), dtype=int)
    codes[:, 3:] = -1
    with pytest.raises(InputError, match="none for the subarticular"):
        score(label_table(codes), to_rows([100, 101], distributions(0, 2)))


def write(path, frame: pd.DataFrame):
    frame.to_csv(path, index=False)
    return path


def test_tables_written_and_read_back_score_the_same(tmp_path):
    codes = np.random.default_rng(2).integers(-1, 3, (5, 5, 5))
    labels, predictions = label_table(codes), to_rows(range(100, 105), distributions(2, 5))
    read = score(
        read_labels(write(tmp_path / "train.csv", labels.assign(fold_id=0))),
        read_predictions(write(tmp_path / "submission.csv", predictions)),
    )
    assert read.total == pytest.approx(score(labels, predictions).total, rel=1e-12)


LABEL_FAULTS = {
    "lacks the column.*left_neural_foraminal_narrowing_l4_l5": lambda t: t.drop(
        columns="left_neural_foraminal_narrowing_l4_l5"
    ),
    "lacks the column.*study_id": lambda t: t.drop(columns="study_id"),
    "lists no study": lambda t: t[:0],
    "lists study 100 more than once": lambda t: t.assign(study_id=100),
    "unknown label 'Mild' for study 101, column spinal_canal_stenosis_l2_l3": lambda t: t.assign(
        spinal_canal_stenosis_l2_l3=["Severe", "Mild"]
    ),
    "unknown label '2'": lambda t: t.assign(spinal_canal_stenosis_l2_l3=2),
    "study_id 'a' in data row 1 is not a whole number": lambda t: t.assign(study_id=["a", "b"]),
}


@pytest.mark.parametrize("message", LABEL_FAULTS)
def test_bad_label_table_is_refused_with_file_and_reason(tmp_path, message):
    path = write(tmp_path / "train.csv", LABEL_FAULTS[message](label_table(np.zeros((2, 5, 5), dtype=int))))
    with pytest.raises(InputError, match=rf"train\.csv.*{message}"):
        read_labels(path)


def spoil(columns: str | list[str], value: object):
    def spoiled(table: pd.DataFrame) -> pd.DataFrame:
        table = table.astype(object)
        table.loc[7, columns] = value
        return table

    return spoiled


PREDICTION_FAULTS = {
    "lacks the column.*severe": lambda t: t.drop(columns="severe"),
    "lists row 100_spinal_canal_stenosis_l1_l2 more than once": spoil("row_id", "100_spinal_canal_stenosis_l1_l2"),
    "not a row id: '100'": spoil("row_id", "100"),
    "not a row id: 'nan'": spoil("row_id", None),
    "row 100_left_neural_foraminal_narrowing_l3_l4 is no distribution": spoil("severe", "high"),
    "narrowing_l3_l4 is no distribution": spoil("moderate", None),
    "foraminal_narrowing_l3_l4 is no distribution": spoil("normal_mild", math.inf),
    "neural_foraminal_narrowing_l3_l4 is no distribution": spoil("normal_mild", -0.1),
    "left_neural_foraminal_narrowing_l3_l4 is no distribution": spoil(list(SEVERITIES), 0),
}


@pytest.mark.parametrize("message", PREDICTION_FAULTS)
def test_bad_prediction_table_is_refused_with_file_and_reason(tmp_path, message):
    path = write(tmp_path / "submission.csv", PREDICTION_FAULTS[message](to_rows([100], distributions(0, 1))))
    with pytest.raises(InputError, match=rf"submission\.csv.*{message}"):
        read_predictions(path)


@pytest.mark.parametrize("content", [None, b"", b"\xff\xfe\x00", b'a,b\n1,2,3\n"'])
def test_what_is_no_table_is_refused(tmp_path, content):
    path = tmp_path / "train.csv"
    if content is not None:
        path.write_bytes(content)
    for read in (read_labels, read_predictions):
        with pytest.raises(InputError, match=r"train\.csv (does not exist|cannot be read|lacks)"):
            read(path)


def test_prior_is_the_weighted_share_of_each_column():
    codes = np.full((10, 5, 5), -1)
    codes[:, 0, 0] = [0] * 6 + [1] * 3 + [2]
    prior = weighted_prior(label_table(codes))
    assert prior.shape == (5, 5, 3)
    np.testing.assert_allclose(prior[0, 0], [6 / 16, 6 / 16, 4 / 16])
    np.testing.assert_allclose(prior[0, 1], prior[0, 0])  # no label: the group's shares
    np.testing.assert_allclose(prior[1, 0], 1 / 3)  # no label in the whole group
    np.testing.assert_allclose(weighted_prior(label_table(codes), smoothing=0.5)[0, 0], np.array([6.5, 7, 6]) / 19.5)


@given(cases(), st.integers(0, 2**32 - 1))
def test_no_other_constant_beats_the_prior_on_its_own_labels(case, seed):
    codes, _ = case
    prior = weighted_prior(label_table(codes))
    other = 0.9 * prior + 0.1 * distributions(seed, 1)[0]
    best, worse = (score_arrays(codes, np.broadcast_to(constant, (*codes.shape, 3))) for constant in (prior, other))
    for group in CONDITION_GROUPS:
        assert getattr(best, group) <= getattr(worse, group) + 1e-12


def test_real_constants_score_what_is_known_of_them(real_tables):
    labels = read_labels(real_tables / "train_with_split.csv")
    _, codes = label_codes(labels)
    shape = (*codes.shape, len(SEVERITIES))
    assert (codes == -1).sum() == 572
    assert score_arrays(codes, np.full(shape, 1 / 3)).total == pytest.approx(0.9994, abs=5e-5)
    assert score_arrays(codes, np.broadcast_to(weighted_prior(labels), shape)).total == pytest.approx(0.7897, abs=5e-5)


def test_real_prior_out_of_fold_scores_what_is_known_of_it(real_tables):
    path = real_tables / "train_with_split.csv"
    labels, folds = read_labels(path), pd.read_csv(path)["fold_id"].to_numpy()
    _, codes = label_codes(labels)
    priors = {fold: weighted_prior(labels[folds != fold]) for fold in np.unique(folds)}
    assert score_arrays(codes, np.stack([priors[fold] for fold in folds])).total == pytest.approx(0.7918, abs=5e-5)


def test_mean_of_the_real_out_of_fold_tables_scores_what_is_known_of_it(real_tables):
    studies, codes = label_codes(read_labels(real_tables / "train_with_split.csv"))
    tables = [
        prediction_array(read_predictions(path), studies) for path in sorted(real_tables.glob("yu4u_*_submission.csv"))
    ]
    assert len(tables) == 7
    spoken = ~np.isnan(tables).all(axis=(0, -1))
    mean = np.nansum(tables, axis=0) / np.maximum((~np.isnan(tables)).sum(axis=0), 1)
    assert ((codes >= 0) & ~spoken).sum() == 46  # axial rows that no table predicts are left out of the known figures
    result = score_arrays(np.where(spoken, codes, -1), mean)
    assert result.spinal == pytest.approx(0.2591, abs=5e-5)
    assert result.foraminal == pytest.approx(0.4803, abs=5e-5)
    assert result.subarticular == pytest.approx(0.5447, abs=5e-5)
    assert result.any_severe_spinal == pytest.approx(0.2678, abs=5e-5)
    assert result.total == pytest.approx(0.3880, abs=5e-5)


@pytest.mark.parametrize(
    "values", ["1e308,1e308,1e308", "1.7e308,1e308,0", "inf,0,0", "nan,1,0", "1e400,1,1", "-1,1,1", '"0,5",1,1']
)
def test_numbers_whose_sum_is_none_are_refused_without_a_warning(tmp_path, values, recwarn):
    path = tmp_path / "p.csv"
    path.write_text(f"row_id,normal_mild,moderate,severe\n1_spinal_canal_stenosis_l1_l2,{values}\n")
    with pytest.raises(InputError, match="is no distribution: three finite numbers wanted"):
        read_predictions(path)
    assert not [warning for warning in recwarn if issubclass(warning.category, RuntimeWarning)]


@pytest.mark.parametrize("word", ["Severe ", " severe", "SEVERE", "sEvErE  "])
def test_labels_count_whatever_their_case_and_the_spaces_around(tmp_path, word):
    rows = [["7", word, *[""] * 24], ["8", "Moderate", *["Normal/Mild"] * 24]]
    lines = [",".join(["study_id", *LABEL_COLUMNS]), *(",".join(row) for row in rows)]
    (tmp_path / "train.csv").write_text("\n".join(lines))
    studies, codes = label_codes(read_labels(tmp_path / "train.csv"))
    assert studies.tolist() == [7, 8]
    assert codes[:, 0, 0].tolist() == [2, 1]
    frame = pd.DataFrame([[1, word, *[None] * 24]], columns=["study_id", *LABEL_COLUMNS])
    assert label_codes(frame)[1][0, 0, 0] == 2


def test_row_ids_with_zeros_before_their_study_are_the_same_rows(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text("row_id,normal_mild,moderate,severe\n0044_spinal_canal_stenosis_l1_l2,1,2,3\n")
    assert read_predictions(path)["row_id"].tolist() == ["44_spinal_canal_stenosis_l1_l2"]
    for study in ("9" * 25, "9" * 5000, "٣", str(2**63)):
        path.write_text(f"row_id,normal_mild,moderate,severe\n{study}_spinal_canal_stenosis_l1_l2,1,2,3\n")
        with pytest.raises(InputError, match="not a row id") as caught:
            read_predictions(path)
        assert len(str(caught.value)) - len(str(path)) < 330
