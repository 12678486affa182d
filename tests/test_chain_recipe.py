"""Recipes and bundles whose detectors cannot work alone or together: told before anything is trained."""

from pathlib import Path

import pytest

from lumbar.issues import InputError
from lumbar.recipe.chain import faults, in_order
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.recipe import load_recipe

T2 = {"series_type": "sagittal_t2"}
T1 = {"series_type": "sagittal_t1", "in_chans": 3}
AXIAL = {"series_type": "axial_t2", "in_chans": 3, "num_classes": 2}
SLICES = {"place": "whole", "points": "series", "answer": "slices", "in_chans": 16}
FOUND = {"place": "found", "answer": "points"}
TOLD = {"num_classes": 10, "canal_distances": True}


def told(*members: dict) -> list[str]:
    return faults({f"m{number}": DetectorSpec.model_validate(member) for number, member in enumerate(members)})


@pytest.mark.parametrize(
    "members",
    [
        [T2, T1, AXIAL],
        [AXIAL, T1, T2],  # in whatever order they are listed
        [T2 | SLICES, T2 | FOUND, T1 | SLICES | {"num_classes": 10}, T1 | FOUND, AXIAL],
        [T2, AXIAL | SLICES | {"num_classes": 10}, AXIAL | FOUND],
        [T2 | SLICES | {"answer": "points", "depth": True}, T2 | FOUND, AXIAL | {"levels_by": "segments"}],
        [T2 | SLICES | {"answer": "points", "depth": True, "beside": "sagittal_t1", "num_classes": 15}, AXIAL],
        [T1, AXIAL | {"needs": ["sagittal_t1"]}],
        [T2, AXIAL | SLICES | {"num_classes": 10}, AXIAL | SLICES | TOLD],
        [T1, AXIAL | SLICES | TOLD | {"needs": ["sagittal_t1"]}],
        [T2 | {"join": "median"}, T2 | {"join": "median", "image_size": 256, "in_chans": 3}],
        [T1 | {"tta": ["slices", "columns"]}, T2 | {"tta": ["mirror"]}, AXIAL | {"tta": ["mirror", "rows", "slices"]}],
    ],
)
def test_chains_that_work_are_taken(members) -> None:
    assert told(*members) == []


@pytest.mark.parametrize(
    ("members", "sentence"),
    [
        ([AXIAL], "m0: an axial detector needs a sagittal_t2 one: its axial planes are chosen by T2 keypoints"),
        ([T2 | SLICES, AXIAL], "m1: an axial detector needs a sagittal_t2 one"),  # slices are no points
        (
            [AXIAL | {"needs": []}],
            "m0: its axial planes are chosen by canal points, and no detector before it finds any",
        ),
        ([AXIAL | SLICES | TOLD], "the distances of its slices are told by T2 keypoints; add one before it"),
        (
            [AXIAL | SLICES | {"num_classes": 10}, T2, AXIAL | SLICES | TOLD],
            "m2: an axial detector needs a sag",
        ),
        ([AXIAL | SLICES | TOLD | {"needs": []}], "m0: the distances of its slices are told by canal points, and no"),
        ([T2, AXIAL | {"canal_distances": True}], 'm1: canal_distances = true holds for place = "whole" only'),
        ([T2, T1 | SLICES | TOLD], "m1: canal_distances tell axial slices from each other"),
        ([T2 | FOUND], 'm0: place = "found" looks around slices found before, and no detector of sagittal_t2'),
        (
            [T2 | FOUND | {"needs": ["axial_t2"]}, T2],
            "m0: it needs points on axial_t2, which no detector before it finds",
        ),
        ([T2 | FOUND, T2 | SLICES], 'm0: place = "found" looks around slices found before'),
        ([T2 | {"place": "offset"}], 'm0: place = "offset" is for sagittal_t1, not for sagittal_t2; choose another'),
        ([AXIAL | {"place": "middle"}], 'm0: place = "middle" is for sagittal_t2 and sagittal_t1, not for axial_t2'),
        ([T1 | SLICES | {"points": "stack"}], 'm0: place = "whole" shows all of a sagittal_t1 series, no single side'),
        ([AXIAL | SLICES | {"points": "stack"}], 'no single level; set points = "series" and num_classes = 10'),
        ([T1 | SLICES], "m0: a detector for sagittal_t1 with num_classes = 5 has no meaning; set it to 10"),
        (
            [T2 | {"num_classes": 7}],
            "m0: a detector for sagittal_t2 with num_classes = 7 has no meaning; set it to 5 or 25",
        ),
        ([T2 | SLICES | {"in_chans": 1}], "m0: it answers which slice, but sees one only (in_chans = 1)"),
        ([T2 | {"pad": True}], 'm0: pad = true holds for place = "whole" only, not for "middle"; leave it out'),
        ([T2 | {"resample": "linear"}], 'm0: resample = linear holds for place = "whole" only'),
        ([T2 | {"beside": "sagittal_t1"}], 'm0: beside = sagittal_t1 holds for place = "whole" only'),
        (
            [T2 | SLICES | {"beside": "sagittal_t2", "num_classes": 10}],
            "m0: beside = sagittal_t2 is the series that it sees anyway",
        ),
        ([T2 | SLICES | {"beside": "axial_t2", "num_classes": 15}], "m0: beside brings two sagittal series together"),
        ([T2 | {"levels_by": "segments"}], 'm0: levels_by = "segments" holds for place = "plane" only'),
        ([T2 | {"unfound": "middle"}], 'm0: unfound = "middle" holds for place = "found" on sagittal series only'),
        (
            [T2, AXIAL | SLICES | {"num_classes": 10}, AXIAL | FOUND | {"unfound": "middle"}],
            'm2: unfound = "middle" holds for place = "found" on sagittal series only',
        ),
        ([T1 | {"tta": ["mirror"]}], 'm0: tta "mirror" changes nothing, since slices of a side run from the middle'),
        (
            [T2, AXIAL | {"tta": ["columns"]}],
            'm1: tta "columns" would exchange left and right of axial images; write "mi',
        ),
        ([T1 | SLICES | {"num_classes": 10, "tta": ["slices"]}], 'm0: tta "slices" would exchange left and right'),
        ([T2 | {"tta": ["rows", "rows"]}], "m0: tta names a turn twice"),
        ([T2 | {"in_chans": 1, "tta": ["slices"]}], 'm0: tta "slices" changes nothing where one slice is seen'),
        ([T2 | {"in_chans": 1, "tta": ["mirror"]}], 'm0: tta "mirror" changes nothing where one sagittal slice is'),
        ([T2 | SLICES | {"decode": "change"}], 'm0: decode = "change" takes levels that follow each other along'),
        (
            [T2, T2 | {"join": "median"}],
            'm1: it speaks of the same points as m0, which is joined by "mean", not by "median"',
        ),
        (
            [T2, T2 | {"preprocessing": {"series": "all"}}],
            "m1: it speaks of the same points as m0, but its preprocessing ",
        ),
    ],
)
def test_chains_that_cannot_work_are_told_with_place_reason_and_remedy(members, sentence) -> None:
    (fault,) = told(*members)
    assert sentence in fault


RECIPE = """
[stage1]
epochs = 1
[stage1.members.canal]
series_type = "sagittal_t2"
num_classes = 7
[stage1.members.found]
series_type = "sagittal_t1"
place = "found"
tta = ["mirror"]
[stage2.members.one]
task = "spinal"
"""


def test_a_recipe_tells_all_of_them_at_once(tmp_path: Path) -> None:
    path = tmp_path / "chain.toml"
    path.write_text(RECIPE)
    with pytest.raises(InputError) as error:
        load_recipe(path)
    for part in ("chain.toml: ", "canal: a detector for sagittal_t2", 'found: place = "found"', 'found: tta "mirror"'):
        assert part in str(error.value)
    for number in ("(1)", "(2)", "(3)"):
        assert number in str(error.value)


def test_folds_of_a_bundle_look_together_whatever_the_order_of_its_members() -> None:
    step, found = (DetectorSpec.model_validate(T2 | each) for each in (SLICES, FOUND))
    assert in_order([step, found, step, found]) == [0, 2, 1, 3]
    plane, middle = DetectorSpec.model_validate(AXIAL), DetectorSpec.model_validate(T2)
    assert in_order([plane, step, middle]) == [2, 1, 0]
