"""Windows of T1 slices follow the spinal canal, not the middle of a series that may lack slices on one side."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import train_utils
from lumbar import geometry
from lumbar.bundle.bundle import load_bundle
from lumbar.dicom.series import Series, Slice
from lumbar.grading.regions import cut_regions, region_key
from lumbar.keypoints.stacks import sagittal_stacks
from lumbar.labels import CONDITIONS, LEVELS
from lumbar.prediction import job, schedule
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.study.canal import canal_mm, off_centre
from lumbar.study.study import Study, open_data, read_study
from lumbar.training.data.labelled import label_keypoints, study_rows
from lumbar.training.data.stack_files import stack_arrays
from tests.conftest import ROOT
from tests.support.mirror import mirror_coordinates, mirror_study
from tests.support.small_study import CANAL, axial, make_slice, sagittal, small_study

CANAL_RULE, SERIES_RULE = Preprocessing(middle="canal"), Preprocessing()
SMALL = {
    "backbone_args": {"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]},
    "image_size": 16,
    "slices": 3,
    "rnn_hidden": 8,
}
T1 = DetectorSpec(series_type="sagittal_t1", in_chans=3, image_size=32, preprocessing=CANAL_RULE)


@dataclass(frozen=True)
class Spot:
    """A keypoint as stage 2 sees it."""

    mm: tuple[float, float, float]
    repaired: bool = False
    series_id: int = 3
    instance: int = 1
    xy_px: tuple[float, float] = (0.0, 0.0)


def recesses(shift: Mapping[str, float] | float = 0.0, **fields) -> dict:
    """Left and right recess of every level, 12 mm beside a canal that lies `shift` mm to the left of x = 0."""
    moved = shift if isinstance(shift, Mapping) else dict.fromkeys(LEVELS, shift)
    return {
        (f"{side}_subarticular_stenosis", level): Spot(tuple(CANAL[level] + [sign * 12 + x, 0, 0]), **fields)
        for level, x in moved.items()
        for side, sign in (("left", 1), ("right", -1))
    }


def shorter(series: Series, right: int = 0, left: int = 0) -> Series:
    """The series without so many end slices of each side."""
    kept = slice(right, len(series) - left)
    return Series(series.series_id, series.description, series.plane, series.slices[kept], series.slabs[kept])


def study_of(t2: tuple[int, int] = (0, 0), t1: tuple[int, int] = (0, 0), count: int = 15) -> Study:
    """T2 and T1 planned in one go, 4.5 mm a slice around x = 0, less so many slices on the right and on the left."""
    series = {name: sagittal(number, count) for name, number in (("sagittal_t2", 1), ("sagittal_t1", 2))}
    return small_study(
        sagittal_t2=(shorter(series["sagittal_t2"], *t2),),
        sagittal_t1=(shorter(series["sagittal_t1"], *t1),),
        axial_t2=(axial(3),),
    )


def place(study: Study, points: Mapping, level: str | None = None, rule: Preprocessing = CANAL_RULE) -> float | None:
    return canal_mm(study, study.series["sagittal_t1"][0], points, rule, level)


# ---- where the canal lies ------------------------------------------------------------------------------------------


def test_the_canal_lies_midway_between_the_recesses_of_its_level():
    curved = {"l1_l2": -6.0, "l2_l3": -3.0, "l3_l4": 0.5, "l4_l5": 2.0}
    study = study_of()
    assert [place(study, recesses(curved), level) for level in curved] == pytest.approx(list(curved.values()))
    median = (-3.0 + 0.5) / 2
    assert place(study, recesses(curved), "l5_s1") == pytest.approx(median)  # no axial slice there
    assert place(study, recesses(curved)) == pytest.approx(median)


def test_the_canal_is_told_in_the_frame_of_an_oblique_series():
    turn = np.radians(20)
    along = np.array([np.cos(turn), np.sin(turn), 0.0])
    slices = []
    for number in range(9):
        corner = along * (number - 4) * 4.5 + np.array([-np.sin(turn), np.cos(turn), 0]) * -60 + [0, 0, 100]
        affine = geometry.slice_affine(corner, (-np.sin(turn), np.cos(turn), 0, 0, 0, -1), [2, 2])
        slices.append(make_slice(number + 1, affine, "sagittal", (100, 80)))
    series = Series(2, "Sagittal T1", "sagittal", tuple(slices), (0,) * 9)
    study = small_study(sagittal_t2=(sagittal(1),), sagittal_t1=(series,), axial_t2=(axial(3),))
    for level in LEVELS:
        assert place(study, recesses(2.0), level) == pytest.approx((CANAL[level] + [2, 0, 0]) @ along)


@pytest.mark.parametrize(
    "points",
    [{}, recesses(5.0, repaired=True), recesses(200.0), recesses(float("nan")), recesses(5.0, series_id=9)],
    ids=["none found", "derived from the canal point", "outside the series", "no numbers", "another study's"],
)
def test_points_that_prove_nothing_leave_the_middle_of_the_series(points):
    assert place(study_of(), points) is None


@pytest.mark.parametrize(("lost", "wanted"), [(6, 1.0), (8, 1.0), (9, None)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_canal_just_beyond_what_is_left_of_the_series_counts_still(lost, wanted, side):
    less = (lost, 0) if side == "right" else (0, lost)
    shift = 1.0 if side == "left" else -1.0  # 15 slices: the middle one is the eighth
    found = place(study_of(less, less), recesses(shift))
    assert found == (None if wanted is None else pytest.approx(shift))


def test_one_side_alone_does_not_tell_where_the_canal_is():
    points = {name: spot for name, spot in recesses(5.0).items() if name[0].startswith("left")}
    assert place(study_of(), points) is None


@pytest.mark.parametrize(
    ("t2", "t1", "wanted"),
    [
        ((0, 0), (0, 1), 0.0),
        ((0, 0), (3, 0), 0.0),
        ((0, 3), (0, 0), None),  # T1 is complete: its own middle
        ((2, 0), (0, 2), 0.0),  # together they show all of it
        ((0, 2), (0, 2), None),  # nobody can know
        ((0, 0), (0, 0), None),
    ],
)
def test_without_axial_points_the_series_that_reaches_farther_tells_the_middle(t2, t1, wanted):
    found = place(study_of(t2, t1), {})
    assert found is None if wanted is None else found == pytest.approx(wanted)


def test_members_of_older_bundles_count_from_the_middle_of_the_series():
    older = {key: value for key, value in Preprocessing().model_dump().items() if key != "middle"}
    assert Preprocessing.model_validate(older).middle == "series"
    assert place(study_of(t1=(0, 3)), recesses(), rule=Preprocessing.model_validate(older)) is None
    entry = {"task": "global", **SMALL}
    other = GraderSpec(**entry, preprocessing=CANAL_RULE)
    assert region_key(GraderSpec(**entry, preprocessing=older)) == region_key(GraderSpec(**entry)) != region_key(other)


def test_positions_are_needed_to_count_from_the_canal():
    for wrong in ({"order": "file"}, {"spacing": "tag"}):
        with pytest.raises(ValueError, match='middle = "canal" goes by positions'):
            Preprocessing(middle="canal", **wrong)


# ---- which slices are seen -----------------------------------------------------------------------------------------


def seen(study: Study, points: Mapping, rule: Preprocessing) -> dict:
    """Positions (x, mm) of the T1 slices of every region and of both stacks."""
    spec = GraderSpec(task="global", **SMALL, preprocessing=rule)
    foramina = {
        (f"{side}_neural_foraminal_narrowing", level): Spot(tuple(CANAL[level] + [sign * 17, 0, 5]), series_id=2)
        for level in LEVELS
        for side, sign in (("left", 1), ("right", -1))
    }
    cuts = cut_regions(study, {**foramina, **points}, spec).cuts
    windows = {name: region.slices for name, region in cuts.items() if name[0].startswith("sagittal_t1")}
    detector = T1.model_copy(update={"preprocessing": rule})
    windows |= {stack.side: stack.window.slices for stack in sagittal_stacks(study, detector, points)[0]}
    return {name: [x_of(item) for item in slices] for name, slices in windows.items()}


def x_of(item: Slice | None) -> float:
    assert item is not None
    return round(float(item.affine[0, 3]), 3)


@pytest.mark.parametrize("short", ["T1", "both"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_missing_slices_change_no_window_that_they_are_not_in(count, side, short):
    less = (count, 0) if side == "right" else (0, count)
    whole = seen(study_of(), recesses(1.0), CANAL_RULE)
    cut = seen(study_of(less if short == "both" else (0, 0), less), recesses(1.0), CANAL_RULE)
    end = (7 - count) * 4.5 * (1 if side == "left" else -1)
    assert len(whole) == 12
    for name, places in whole.items():
        assert cut[name] == [min(x, end) if side == "left" else max(x, end) for x in places]
    by_series = seen(study_of(t1=less), recesses(1.0), SERIES_RULE)
    assert count == 1 or by_series != cut


def t2_seen(study: Study, points: Mapping, rule: Preprocessing) -> tuple[list[float], float, list[float]]:
    """Positions of the T2 slices: the detector's stack, the slice of its keypoints, a region."""
    spec = DetectorSpec(series_type="sagittal_t2", image_size=32, preprocessing=rule)
    ((stack,), _) = sagittal_stacks(study, spec, points)
    canal = {("spinal_canal_stenosis", level): Spot(tuple(mm), series_id=1) for level, mm in CANAL.items()}
    cuts = cut_regions(study, {**canal, **points}, GraderSpec(task="spinal", **SMALL, preprocessing=rule)).cuts
    region = cuts["sagittal_t2", "l3_l4"].slices
    return [x_of(item) for item in stack.window.slices], x_of(stack.centre), [x_of(item) for item in region]


def test_the_t2_window_moves_where_the_canal_lies_a_slice_or_more_off():
    middle = ([-9.0, -4.5, 0.0, 4.5, 9.0], 0.0, [-4.5, 0.0, 4.5])
    for less in ((0, 0), (2, 0), (0, 2), (0, 3), (3, 0)):
        assert t2_seen(study_of(t2=less), {}, CANAL_RULE) == middle  # T1 shows how far the body reaches
    short = study_of((0, 2), (0, 2))
    assert t2_seen(short, {}, CANAL_RULE)[1] == t2_seen(short, {}, SERIES_RULE)[1] == -4.5
    assert t2_seen(short, recesses(), CANAL_RULE)[2] == middle[2]
    near = study_of()
    assert t2_seen(near, recesses(4.0), CANAL_RULE) == t2_seen(near, {}, CANAL_RULE) == middle


def test_each_level_follows_its_own_canal():
    curved = dict(zip(LEVELS, (-9.0, -4.5, 0.0, 4.5, 9.0), strict=True))
    straight, bent = (seen(study_of(count=21), recesses(shift), CANAL_RULE) for shift in (0.0, curved))
    for (view, level), places in ((name, x) for name, x in straight.items() if isinstance(name, tuple)):
        assert bent[view, level] == [x + curved[level] for x in places]
    assert bent["left"] == straight["left"]  # a stack shows all levels: it lies beside the middle of them


@given(
    st.integers(0, 3), st.integers(0, 3), st.floats(-8, 8), st.sampled_from([CANAL_RULE, SERIES_RULE]), st.booleans()
)
def test_a_mirrored_study_has_the_mirrored_windows(right, left, shift, rule, axial_found):
    points, twins = (recesses(x) if axial_found else {} for x in (shift, -shift))
    here = seen(study_of(t1=(right, left), count=12), points, rule)
    there = seen(study_of(t1=(left, right), count=12), twins, rule)
    for name, places in here.items():
        other = tuple(_other(part) for part in name) if isinstance(name, tuple) else _other(name)
        assert there[other] == [-x for x in places]


def _other(word: str) -> str:
    return word.replace("left", "*").replace("right", "left").replace("*", "right")


def test_a_gap_between_slices_does_not_move_the_window_across_it():
    series = sagittal(2, 15)
    kept = series.slices[:9] + series.slices[11:]  # 9 and 13.5 mm are gone
    gapped = Series(2, series.description, "sagittal", kept, (0,) * 13)
    study = small_study(sagittal_t2=(sagittal(1, 15),), sagittal_t1=(gapped,), axial_t2=(axial(3),))
    windows = seen(study, recesses(), CANAL_RULE)
    assert windows["sagittal_t1_left", "l1_l2"] == [4.5, 18.0, 22.5]  # 18 is nearest to 14.9


# ---- what is said of it --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [CANAL_RULE, SERIES_RULE], ids=["canal", "series"])
def test_middles_half_a_slice_apart_are_told_with_their_numbers(rule):
    assert off_centre(study_of(), rule, None) == []
    assert off_centre(study_of((0, 2), (0, 2)), rule, None) == []
    (issue,) = off_centre(study_of(t1=(1, 0)), rule, None)
    assert (issue.code, issue.series) == ("series_off_centre", 2)
    assert "sagittal T1 lies 2.2 mm to the patient's left of sagittal T2's (slices 4.5 mm apart)" in issue.detail
    (issue,) = off_centre(study_of(t2=(3, 0)), rule, 0.0)
    assert "lies 6.8 mm to the patient's right" in issue.detail
    assert issue.detail.endswith("from the canal")


def test_a_canal_a_slice_beside_both_middles_is_told():
    study = study_of((0, 3), (0, 3))
    canal = place(study, recesses())
    assert off_centre(study, CANAL_RULE, place(study, recesses(-3.0))) == []
    (issue,) = off_centre(study, CANAL_RULE, canal)
    assert "the canal lies 6.8 mm to the patient's left of the middle of sagittal T1 (slices 4.5 mm" in issue.detail


# ---- training, and a whole run --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sample() -> tuple[Study, dict, Path]:
    """A shipped phantom study, its labelled keypoints and its folder."""
    data = open_data(ROOT / "sample_data")
    study = read_study(data, 100001)
    rows = study_rows(data.coordinates)[100001]
    return study, label_keypoints(study, rows), data.image_folder / "100001"


def test_labelled_recesses_tell_where_training_stacks_lie(sample):
    study, keypoints, _ = sample
    t1 = study.series["sagittal_t1"][0]
    cut = Study(study.study_id, {**study.series, "sagittal_t1": (shorter(t1, right=1),)})
    whole, less = (stack_arrays(one, keypoints, T1)["images"] for one in (study, cut))
    assert np.array_equal(whole[0], less[0])  # the left stack: none of its slices is missing
    plain = T1.model_copy(update={"preprocessing": SERIES_RULE})
    before, after = (stack_arrays(one, keypoints, plain)["images"] for one in (study, cut))
    assert before.shape == after.shape == whole.shape


def without_end(source: Path, target: Path, study: Study, kind: str, count: int, side: str) -> Path:
    """A copy of a study's folder in which a sagittal series lacks so many end slices of a side."""
    shutil.copytree(source, target)
    slices = study.series[kind][0].slices
    for item in slices[:count] if side == "right" else slices[len(slices) - count :]:
        (target / str(study.series[kind][0].series_id) / item.path.name).unlink()
    return target


@pytest.mark.parametrize("rule", [CANAL_RULE, SERIES_RULE], ids=["canal", "series"])
@pytest.mark.parametrize("side", ["right", "left"])
def test_a_mirrored_study_that_lacks_slices_on_one_side_swaps_its_regions(sample, rule, side, tmp_path):
    """On disk, as a scanner would have written both; the keypoints are the labelled ones."""
    study, _, source = sample
    cut = without_end(source, tmp_path / "here" / "train_images" / "100001", study, "sagittal_t1", 1, side)
    mirror_study(cut, tmp_path / "there" / "train_images" / "100001")
    for folder in ("here", "there"):
        for table in source.parent.parent.glob("train*.csv"):
            shutil.copy(table, tmp_path / folder)
    here, there = (open_data(tmp_path / folder) for folder in ("here", "there"))
    rows = here.coordinates[here.coordinates["study_id"] == 100001]
    rows = rows[[find(study, cut, row) for row in rows.itertuples()]]
    spec = GraderSpec(task="global", **{**SMALL, "image_size": 32}, preprocessing=rule)
    cuts = []
    for data, table in ((here, rows), (there, mirror_coordinates(rows, cut))):
        one = read_study(data, 100001)
        cuts.append(cut_regions(one, label_keypoints(one, table), spec))
    first, second = cuts
    for view in ("sagittal_t1_left", "sagittal_t1_right"):
        assert first.present[view].any()
        np.testing.assert_allclose(second.tensors[_other(view)], first.tensors[view], atol=1e-4)


def find(study: Study, folder: Path, row) -> bool:
    """Whether a labelled slice is still in the folder."""
    slices = study.series_by_id(row.series_id).slices
    name = next(item.path.name for item in slices if item.instance == row.instance_number)
    return (folder / str(row.series_id) / name).is_file()


def test_a_run_with_slices_missing_says_so_and_grades_the_same_foramina(sample, tmp_path, monkeypatch):
    """With the shipped bundle: the side that lacks nothing is graded as before; the command line's report says why."""
    study, _, source = sample
    for name, kind, count in (("whole", "sagittal_t1", 0), ("t1", "sagittal_t1", 1), ("t2", "sagittal_t2", 2)):
        without_end(source, tmp_path / name / "test_images" / "100001", study, kind, count, "left")
        table = (ROOT / "sample_data" / "train_series_descriptions.csv").read_text().splitlines()
        kept = [table[0], *(line for line in table if line.startswith("100001"))]
        (tmp_path / name / "test_series_descriptions.csv").write_text("\n".join(kept) + "\n")
    bundle = load_bundle(ROOT / "weights")
    results = {name: next(schedule.predict(open_data(tmp_path / name), bundle)) for name in ("whole", "t1", "t2")}
    row = CONDITIONS.index("right_neural_foraminal_narrowing")
    for name in ("t1", "t2"):
        (said,) = [issue for issue in results[name].issues if issue.code == "series_off_centre"]
        assert f"to the patient's {'right' if name == 't1' else 'left'} of sagittal T2's" in said.detail
        assert said.detail.endswith("from the canal")
        names = [member.name for member in bundle.manifest.members if isinstance(member.spec, GraderSpec)]
        own = names.index("foraminal_small")
        np.testing.assert_allclose(results[name].members[own, row], results["whole"].members[own, row], atol=1e-4)
    monkeypatch.setattr(job, "predict_all", lambda *_, **__: [results["t1"]])
    words = ["predict", "--data", tmp_path / "t1", "--weights", ROOT / "weights", "--out", tmp_path, "--device", "cpu"]
    assert train_utils.main([str(word) for word in words]) == 0
    told = json.loads((tmp_path / "run_report.json").read_text())["issues"]
    assert told["counts"]["series_off_centre"] == 1
