"""Views, regions and turns that do not go together are refused at once, each with a sentence that says what to do."""

import re
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from lumbar.bundle.manifest import Member
from lumbar.grading.regions import region_key
from lumbar.grading.tasks import task_of
from lumbar.issues import InputError
from lumbar.recipe import needs
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.recipe import load_recipe
from lumbar.recipe.wording import describe
from tests.support.grader_kinds import CANAL, KINDS, LEFT_FORAMEN, LEFT_RECESS, RIGHT_FORAMEN, RIGHT_RECESS

T2: dict[str, Any] = {"views": ["sagittal_t2"], "conditions": [CANAL]}
BOTH: dict[str, Any] = {"views": ["axial_middle"], "conditions": [LEFT_RECESS, RIGHT_RECESS]}
SIDE: dict[str, Any] = {"views": ["axial_left"], "conditions": [LEFT_RECESS]}
T1: dict[str, Any] = {"views": ["sagittal_t1_left"], "conditions": [LEFT_FORAMEN]}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "give a task, or views and conditions"),
        ({"task": "spinal", **T2}, "give a task, or views and conditions"),
        ({"views": ["sagittal_t2"]}, "give a task, or views and conditions"),
        ({**T2, "views": ["sagittal_t2", "sagittal_t2"]}, "views names something twice"),
        ({**T2, "views": ["coronal"]}, "views.0 is 'coronal'; allowed: 'sagittal_t2'"),
        ({"views": ["axial_right"], "conditions": [LEFT_RECESS]}, "cannot be seen on axial_right; add a view of its"),
        ({**T1, "conditions": [LEFT_FORAMEN, RIGHT_FORAMEN]}, "cannot be seen on sagittal_t1_left"),
        ({**BOTH, "speaks_for": [CANAL]}, "speaks_for may name its conditions only"),
        ({"task": "spinal", "speaks_for": [CANAL]}, "need views and conditions in place of task"),
        ({"views": ["sagittal_series", "axial_left"], "conditions": [CANAL]}, "cannot stand beside other views"),
        ({**T2, "regions": {"axial_left": {"slices": 3}}}, "regions names axial_left, which is none of its views"),
        (
            {**SIDE, "regions": {"axial_left": {"slices": 3}, "axial_right": {"slices": 5}}},
            "are alike; name one of the two",
        ),
        ({**T2, "region": {"box": "pair"}}, 'region of sagittal_t2: box = "pair" goes by the left and the'),
        ({**BOTH, "region": {"rotate": "canal"}}, 'rotate = "canal" turns sagittal images'),
        ({**T2, "region": {"box": "whole", "rotate": "canal"}}, "cannot be rotated along the canal"),
        ({**T2, "region": {"box": "whole", "follow": True}}, "does not lie around a point that follow could move"),
        ({**SIDE, "region": {"around": "offset"}}, 'around = "offset" is for sagittal views'),
        ({**BOTH, "region": {"half": True, "around": "level"}}, "half takes the half of a side, and this view shows"),
        ({**T1, "region": {"half": True}}, 'half takes the slices of half a series; it needs around = "level"'),
        ({**T2, "region": {"slice_mm": 4.0, "around": "level"}}, "leave one out"),
        ({**T2, "region": {"box": "levels", "extent": [60, 60]}}, "at most 50 are taken"),
        ({**T2, "region": {"extent": [2.0, 40.0]}}, "is too small"),
        ({**T2, "region": {"extent": [0.0, 40.0]}}, "more than 0"),
        ({**T2, "region": {"size": [8, 64]}}, "16 or more"),
        ({**T2, "region": {"slices": 1000}}, "256 or less"),
        ({**T2, "region": {"size": [2048, 2048], "slices": 9}}, "hold more than 16777216 numbers"),
        ({"task": "subarticular", "region": {"rotate": "canal"}}, 'axial_left: rotate = "canal" turns sagittal images'),
        ({"task": "global", "region": {"size": [1024, 1024], "slices": 4}}, "hold more than 16777216 numbers"),
        ({**BOTH, "region": {"shift": [10.0, 0.0]}}, "leads to one side of a view that shows both"),
        ({**BOTH, "region": {"box": "pair", "shift_l5_s1": [0.5, 0.0]}}, "shift_l5_s1 .* leads to one side"),
        ({"task": "spinal", "region": {"shift": [10.0, 0.0]}}, "axial_middle: shift .* leads to one side"),
        ({**T2, "region": {"box": "share", "extent": [0.002, 0.2]}}, "0.05 and more are taken"),
        ({**T2, "region": {"shift": [900.0, 0.0]}}, "leads out of the image; at most 200 mm"),
        ({**T2, "region": {"box": "levels", "shift_l5_s1": [0.0, -6.0]}}, 'at most 5 units of box = "levels"'),
        ({**SIDE, "region": {"levels_by": "found"}}, 'it needs an axial view and around = "level"'),
        ({**T2, "region": {"around": "level", "levels_by": "found"}}, "levels_by says which axial slices"),
        ({**T2, "region": {"inner": 0.5}}, "inner takes the middle slices of a sagittal series; it needs around"),
        ({**SIDE, "region": {"inner": 0.5, "around": "level"}}, "inner takes the middle slices of a sagittal series"),
        ({**T1, "region": {"inner": 0.5, "around": "level", "half": True}}, 'around = "level" and no half'),
        ({**T2, "region": {"inner": 1.5, "around": "level"}}, "1 or less"),
        ({**SIDE, "region": {"point": "canal"}}, 'point = "canal" lies on sagittal slices; an axial view needs'),
        ({**T2, "region": {"percentiles": [99.0, 1.0]}}, "must rise"),
        ({**T2, "region": {"boxes": "mm"}}, "unknown key 'boxes'; did you mean 'box'"),
        ({**T2, "region": {"around": "point"}, "preprocessing": {"window_end": "zeros"}}, 'window_end = "repeat"'),
        ({**T2, "region": {"slices": 3}, "preprocessing": {"order": "file"}}, "they need preprocessing.order"),
        ({**T2, "tta": ["slices"]}, 'tta "slices" is for axial views; .*write "mirror"'),
        ({**SIDE, "tta": ["columns"]}, 'tta "columns" is for sagittal views; .*write "mirror"'),
        ({**T2, "tta": ["columns", "front_back"]}, "turns columns and rows already"),
        ({**T2, "tta": ["rows", "rows"]}, "tta names something twice"),
        ({**T2, "levels": "two"}, "levels is 'two'; allowed: 'one', 'all' or 'study'"),
    ],
)
def test_what_does_not_go_together_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        GraderSpec(**fields)

    assert re.search(words, describe(caught.value)), describe(caught.value)


@pytest.mark.parametrize("spec", KINDS.values(), ids=KINDS)
def test_a_manifest_keeps_every_kind_and_equal_inputs_are_shared(spec: GraderSpec) -> None:
    member = Member(name="a", spec=spec, file="a.safetensors", sha256="0" * 64)
    again = Member.model_validate_json(member.model_dump_json()).spec
    assert again == spec
    assert isinstance(again, GraderSpec)
    assert region_key(again) == region_key(spec.model_copy(update={"network": "mil", "rnn_hidden": 4}))
    assert len({region_key(other) for other in KINDS.values()}) == len(KINDS)


def test_a_task_takes_what_its_own_views_allow() -> None:
    assert GraderSpec(task="subarticular", region={"half": True}).region.half
    assert GraderSpec(task="foraminal", region={"shift": [10.0, 0.0], "rotate": "canal"}).region.rotate == "canal"


def test_what_was_written_before_reads_as_it_was() -> None:
    spec = GraderSpec(task="spinal")
    written = spec.model_dump(mode="json")
    assert not {"views", "conditions", "speaks_for", "levels", "region", "regions", "tta"} & set(written)
    assert GraderSpec(**written) == spec
    assert task_of(spec).views == ("sagittal_t2", "axial_middle")


def test_left_views_stand_for_right_ones() -> None:
    twin = task_of(GraderSpec(views=["sagittal_t1_left", "axial_left"], conditions=[LEFT_FORAMEN])).samples[1]
    assert twin.views == ("sagittal_t1_right", "axial_right")
    assert twin.conditions == (RIGHT_FORAMEN,)
    assert len(task_of(GraderSpec(**BOTH)).samples) == 1


RECIPE = """
[stage1.members.t2]
series_type = "sagittal_t2"
[stage2.members.one]
views = ["sagittal_t2"]
conditions = ["spinal_canal_stenosis"]
"""


def refused(tmp_path: Path, text: str) -> str:
    (tmp_path / "own.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_recipe(tmp_path / "own.toml")
    return str(caught.value)


def test_a_recipe_whose_graders_lack_points_is_refused(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text(RECIPE, encoding="utf-8")
    assert load_recipe(tmp_path / "own.toml").stage2.members["one"].spec.views == ("sagittal_t2",)
    own = refused(tmp_path, RECIPE + 'region = { box = "own" }\n')
    assert "no detector of sagittal_t2 tells sizes" in own
    follow = refused(tmp_path, RECIPE + "region = { follow = true }\n")
    assert "where the point of sagittal_t2 lies on each slice, and no detector of sagittal_t2 tells that" in follow
    lost = refused(tmp_path, RECIPE.replace('views = ["sagittal_t2"]', 'views = ["axial_middle"]'))
    assert "no detector finds points on axial_t2" in lost
    mixed = 'augment = { mix = "cutmix", mix_p = 0.5, mix_on = "features" }\n'
    uneven = RECIPE.replace('["sagittal_t2"]', '["sagittal_t2", "sagittal_t2_left"]').replace("one]", "one]\n" + mixed)
    uneven += "regions.sagittal_t2 = { slices = 9 }\n"
    assert "which have 5 and 9; mix images" in refused(tmp_path, uneven)
    still = refused(tmp_path, RECIPE + 'region = { around = "level" }\nslice_shift = [0.5, 0.5]\n')
    assert "slice_shift has no effect" in still
    alone = RECIPE.replace("sagittal_t2", "sagittal_t1") + 'region = { rotate = "canal" }\n'
    assert "no detector finds points on sagittal_t2" in refused(tmp_path, alone)
    around = RECIPE.replace("sagittal_t2", "sagittal_t1") + 'region = { point = "canal" }\n'
    assert 'point = "canal" lies around the canal\'s points, and no detector' in refused(tmp_path, around)


def test_regions_around_the_canal_need_no_points_of_their_own_series() -> None:
    t2 = {"t2": DetectorSpec(series_type="sagittal_t2")}
    assert needs.faults({}, t2, {"one": GraderSpec(**T1, region={"point": "canal"})}) == []
    assert needs.faults({}, t2, {"one": GraderSpec(**T1)})


def test_slices_of_a_level_by_found_ones_need_no_point_of_the_canal() -> None:
    axial = {"axial": DetectorSpec(series_type="axial_t2", in_chans=3, num_classes=2)}
    (lost,) = needs.faults({}, axial, {"one": GraderSpec(**SIDE, region={"around": "level"})})
    assert 'add one, or set levels_by = "found"' in lost
    found = GraderSpec(**SIDE, region={"around": "level", "levels_by": "found"})
    assert needs.faults({}, axial, {"one": found}) == []
