"""The only home of the conditions, levels, severities, series types and row ids.

The words are the competition's (RSNA 2024 Lumbar Spine Degenerative Classification). Nothing here imports torch.
"""

from typing import Final, Literal, get_args

Condition = Literal[
    "spinal_canal_stenosis",
    "left_neural_foraminal_narrowing",
    "right_neural_foraminal_narrowing",
    "left_subarticular_stenosis",
    "right_subarticular_stenosis",
]
Level = Literal["l1_l2", "l2_l3", "l3_l4", "l4_l5", "l5_s1"]
Severity = Literal["normal_mild", "moderate", "severe"]
SeriesType = Literal["sagittal_t1", "sagittal_t2", "axial_t2"]
Side = Literal["left", "right"]

CONDITIONS: Final[tuple[Condition, ...]] = get_args(Condition)
LEVELS: Final[tuple[Level, ...]] = get_args(Level)
SEVERITIES: Final[tuple[Severity, ...]] = get_args(Severity)
SERIES_TYPES: Final[tuple[SeriesType, ...]] = get_args(SeriesType)
SIDES: Final[tuple[Side, ...]] = get_args(Side)

#: Row weight of a label in the loss and in the official score.
SEVERITY_WEIGHTS: Final[dict[Severity, float]] = {"normal_mild": 1.0, "moderate": 2.0, "severe": 4.0}
#: Words of the label table (`train.csv`).
SEVERITY_LABELS: Final[dict[str, Severity]] = {"Normal/Mild": "normal_mild", "Moderate": "moderate", "Severe": "severe"}
#: Words of the series tables (`*_series_descriptions.csv`).
SERIES_DESCRIPTIONS: Final[dict[str, SeriesType]] = {
    "Sagittal T1": "sagittal_t1",
    "Sagittal T2/STIR": "sagittal_t2",
    "Axial T2": "axial_t2",
}
#: The three groups that the official score averages; sides are pooled.
CONDITION_GROUPS: Final[dict[str, tuple[Condition, ...]]] = {
    "spinal": CONDITIONS[:1],
    "foraminal": CONDITIONS[1:3],
    "subarticular": CONDITIONS[3:],
}
#: The series type on which the competition's readers marked a condition's keypoint.
KEYPOINT_SERIES: Final[dict[Condition, SeriesType]] = {
    "spinal_canal_stenosis": "sagittal_t2",
    "left_neural_foraminal_narrowing": "sagittal_t1",
    "right_neural_foraminal_narrowing": "sagittal_t1",
    "left_subarticular_stenosis": "axial_t2",
    "right_subarticular_stenosis": "axial_t2",
}
#: The 25 label columns of `train.csv`, condition by condition, head to foot.
LABEL_COLUMNS: Final[tuple[str, ...]] = tuple(f"{condition}_{level}" for condition in CONDITIONS for level in LEVELS)
#: Ids of studies and series are whole numbers up to here.
LARGEST_ID: Final = 2**63 - 1
#: Columns of the submission.
SUBMISSION_COLUMNS: Final[tuple[str, ...]] = ("row_id", *SEVERITIES)


def row_id(study_id: int, condition: Condition, level: Level) -> str:
    """Name of one submission row, e.g. `44036939_left_subarticular_stenosis_l1_l2`."""
    return f"{study_id}_{condition}_{level}"


def split_row_id(text: str) -> tuple[int, Condition, Level]:
    """Inverse of `row_id`; raises ValueError where the text is not a row id."""
    study, _, rest = text.partition("_")
    for condition in CONDITIONS:
        level = rest.removeprefix(f"{condition}_")
        if level != rest and level in LEVELS and _is_id(study):
            return int(study), condition, level
    raise ValueError(f"not a row id: {text[:80]!r} (expected <study>_<condition>_<level>)")


def _is_id(text: str) -> bool:
    digits = text.lstrip("0")
    return text.isascii() and text.isdecimal() and len(digits) < 20 and int(digits or "0") <= LARGEST_ID


def row_ids(study_id: int) -> list[str]:
    """The 25 row ids of a study, in the order of `LABEL_COLUMNS`."""
    return [f"{study_id}_{column}" for column in LABEL_COLUMNS]


def side_of(condition: Condition) -> Side | None:
    """`left`, `right`, or None for the spinal canal."""
    return next((side for side in SIDES if condition.startswith(f"{side}_")), None)


def mirrored(condition: Condition) -> Condition:
    """The same condition on the other side; the spinal canal stays."""
    side = side_of(condition)
    if side is None:
        return condition
    other = "right" if side == "left" else "left"
    return condition.replace(side, other, 1)  # type: ignore[return-value]


def condition_title(condition: Condition) -> str:
    """The condition in the words of `train_label_coordinates.csv`, e.g. `Left Neural Foraminal Narrowing`."""
    return condition.replace("_", " ").title()


def level_title(level: Level) -> str:
    """The level in the words of `train_label_coordinates.csv`, e.g. `L5/S1`."""
    return level.upper().replace("_", "/")
