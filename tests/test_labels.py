"""The words of the competition: every name has one spelling, and goes there and back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumbar.labels import (
    CONDITION_GROUPS,
    CONDITIONS,
    KEYPOINT_SERIES,
    LABEL_COLUMNS,
    LEVELS,
    SERIES_DESCRIPTIONS,
    SERIES_TYPES,
    SEVERITIES,
    SEVERITY_LABELS,
    SEVERITY_WEIGHTS,
    condition_title,
    level_title,
    mirrored,
    row_id,
    row_ids,
    side_of,
    split_row_id,
)

study_ids = st.integers(min_value=0, max_value=2**63 - 1)
conditions = st.sampled_from(CONDITIONS)
levels = st.sampled_from(LEVELS)


@given(study_ids, conditions, levels)
def test_row_id_comes_back_whole(study, condition, level):
    assert split_row_id(row_id(study, condition, level)) == (study, condition, level)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "44036939",
        "44036939_",
        "_spinal_canal_stenosis_l1_l2",
        "44036939_spinal_canal_stenosis",
        "44036939_spinal_canal_stenosis_l6_s1",
        "44036939_spinal_canal_stenosis_l1_l2_",
        "44036939_middle_subarticular_stenosis_l1_l2",
        "44036939_subarticular_stenosis_l1_l2",
        "-1_spinal_canal_stenosis_l1_l2",
        "1.0_spinal_canal_stenosis_l1_l2",
        "44036939-spinal_canal_stenosis-l1_l2",
        "44036939_Spinal_Canal_Stenosis_l1_l2",
    ],
)
def test_malformed_row_id_is_refused(text):
    with pytest.raises(ValueError, match="not a row id"):
        split_row_id(text)


@given(st.text(max_size=60))
def test_any_text_is_a_row_id_or_is_refused(text):
    try:
        study, condition, level = split_row_id(text)
    except ValueError:
        return
    assert text.endswith(f"_{condition}_{level}")
    assert int(text.partition("_")[0]) == study


def test_row_ids_of_a_study_follow_the_label_columns():
    assert row_ids(7) == [f"7_{column}" for column in LABEL_COLUMNS]
    assert len(set(row_ids(7))) == 25
    assert row_ids(44036939)[0] == "44036939_spinal_canal_stenosis_l1_l2"
    assert row_ids(44036939)[-1] == "44036939_right_subarticular_stenosis_l5_s1"


def test_label_columns_are_those_of_the_real_table(real_tables):
    with (real_tables / "train_with_split.csv").open(encoding="utf-8") as file:
        header = file.readline().strip().split(",")
    assert header == ["study_id", *LABEL_COLUMNS, "fold_id"]


@given(conditions)
def test_mirroring_swaps_sides_and_undoes_itself(condition):
    other = mirrored(condition)
    assert mirrored(other) == condition
    assert {side_of(condition), side_of(other)} in ({None}, {"left", "right"})
    assert (other == condition) == (side_of(condition) is None)


def test_mirroring_permutes_the_conditions_in_place():
    assert tuple(mirrored(condition) for condition in CONDITIONS) == (
        "spinal_canal_stenosis",
        "right_neural_foraminal_narrowing",
        "left_neural_foraminal_narrowing",
        "right_subarticular_stenosis",
        "left_subarticular_stenosis",
    )


def test_groups_share_out_the_conditions_in_order():
    assert [condition for group in CONDITION_GROUPS.values() for condition in group] == list(CONDITIONS)


def test_titles_are_those_of_the_coordinate_table():
    assert [condition_title(condition) for condition in CONDITIONS] == [
        "Spinal Canal Stenosis",
        "Left Neural Foraminal Narrowing",
        "Right Neural Foraminal Narrowing",
        "Left Subarticular Stenosis",
        "Right Subarticular Stenosis",
    ]
    assert [level_title(level) for level in LEVELS] == ["L1/L2", "L2/L3", "L3/L4", "L4/L5", "L5/S1"]


def test_every_vocabulary_covers_its_words():
    assert tuple(SEVERITY_LABELS.values()) == SEVERITIES
    assert [SEVERITY_WEIGHTS[severity] for severity in SEVERITIES] == [1, 2, 4]
    assert set(SERIES_DESCRIPTIONS.values()) == set(SERIES_TYPES)
    assert set(KEYPOINT_SERIES) == set(CONDITIONS)
    assert set(KEYPOINT_SERIES.values()) == set(SERIES_TYPES)
