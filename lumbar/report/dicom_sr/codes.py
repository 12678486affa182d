"""Codes of a structured report: standard ones where there are, `99LUMBAR` where not.

Sources: DICOM PS3.16 for levels (CID 1003, SNOMED CT), laterality (CID 244) and grades of stenosis (CID 3832); LOINC
for the procedure, where the extensible CID 100 names no part of the spine. SNOMED CT 76107001 is spinal stenosis; the
level says that it is the lumbar spine's.
Neural foraminal narrowing, subarticular stenosis, the joint grade "normal or mild" and what a probability is of have no
code in PS3.16, and a private one is plain where a guessed standard one would be wrong.
"""

from typing import Final, NamedTuple

from pydicom.dataset import Dataset

from lumbar.labels import Condition, Level, Severity, Side

PRIVATE: Final = "99LUMBAR"


class Code(NamedTuple):
    """Value, scheme and meaning of a DICOM coded concept."""

    value: str
    scheme_designator: str
    meaning: str


LEVEL_CODES: Final[dict[Level, Code]] = {
    "l1_l2": Code("243920003", "SCT", "Level of L1/L2 intervertebral disc"),
    "l2_l3": Code("243921004", "SCT", "Level of L2/L3 intervertebral disc"),
    "l3_l4": Code("243922006", "SCT", "Level of L3/L4 intervertebral disc"),
    "l4_l5": Code("243923001", "SCT", "Level of L4/L5 intervertebral disc"),
    "l5_s1": Code("243927000", "SCT", "Level of L5/S1 intervertebral disc"),
}
SIDE_CODES: Final[dict[Side, Code]] = {
    "left": Code("7771000", "SCT", "Left"),
    "right": Code("24028007", "SCT", "Right"),
}
_FORAMEN: Final = Code("FORAMINAL", PRIVATE, "Neural foraminal narrowing")
_SUBARTICULAR: Final = Code("SUBARTICULAR", PRIVATE, "Subarticular stenosis")
#: The side is told by the finding site's laterality.
CONDITION_CODES: Final[dict[Condition, Code]] = {
    "spinal_canal_stenosis": Code("76107001", "SCT", "Spinal stenosis"),
    "left_neural_foraminal_narrowing": _FORAMEN,
    "right_neural_foraminal_narrowing": _FORAMEN,
    "left_subarticular_stenosis": _SUBARTICULAR,
    "right_subarticular_stenosis": _SUBARTICULAR,
}
SEVERITY: Final = Code("246112005", "SCT", "Severity")
SEVERITY_CODES: Final[dict[Severity, Code]] = {
    "normal_mild": Code("NORMAL_MILD", PRIVATE, "Normal or mild"),
    "moderate": Code("6736007", "SCT", "Moderate"),
    "severe": Code("24484000", "SCT", "Severe"),
}
PROBABILITY_CODES: Final[dict[Severity, Code]] = {
    "normal_mild": Code("P_NORMAL_MILD", PRIVATE, "Probability of normal or mild"),
    "moderate": Code("P_MODERATE", PRIVATE, "Probability of moderate"),
    "severe": Code("P_SEVERE", PRIVATE, "Probability of severe"),
}
BASIS: Final = Code("BASIS", PRIVATE, "What the probabilities rest on")
#: Own view: a region on the condition's own kind of series.
OWN_VIEW: Final = Code("OWN_VIEW", PRIVATE, "Images, the condition's own view")
OTHER_VIEWS: Final = Code("OTHER_VIEWS", PRIVATE, "Images, other views only")
PRIOR: Final = Code("PRIOR", PRIVATE, "Weighted prior, no image")
EVIDENCE: Final = Code("EVIDENCE", PRIVATE, "What backs the severity")
TESTED: Final = Code("TESTED_ON_PATIENTS", PRIVATE, "Graders that were tested on patients")
UNTESTED: Final = Code("NOT_TESTED", PRIVATE, "NOT BACKED: no test on patients is told")
PHANTOM: Final = Code("PHANTOM", PRIVATE, "PHANTOM: synthetic images, no patient")
#: Free text of a report and of its groups (PS3.16, TID 1500 and 1501).
COMMENT: Final = Code("121106", "DCM", "Comment")
NO_UNITS: Final = Code("1", "UCUM", "no units")
PROCEDURE: Final = Code("24968-0", "LN", "MR Lumbar spine")


def private_scheme() -> Dataset:
    """What a report says of the private scheme: whose it is."""
    scheme = Dataset()
    scheme.CodingSchemeDesignator = PRIVATE
    scheme.CodingSchemeName = "Lumbar: conditions, grades and probabilities without a standard code"
    scheme.CodingSchemeResponsibleOrganization = "Lumbar"
    return scheme
