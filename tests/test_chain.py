"""Detectors that look one after the other: whole series, slices found before, several series, and what they tell."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lumbar.dicom.identity import Identity
from lumbar.dicom.series import Series
from lumbar.keypoints.detect import detect
from lumbar.keypoints.grey import as_seen
from lumbar.keypoints.places import Known, stacks_for
from lumbar.keypoints.stacks import channel_names
from lumbar.labels import CONDITIONS, LEVELS, mirrored
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.preprocessing import Preprocessing
from lumbar.training.data.intensities import finish_of_stacks
from tests.support.scoliosis import SIZE, Seer, bent_study, mirrored_study, spots, true_points
from tests.support.small_study import CANAL, axial, sagittal

TRUE = true_points()


def spec_of(series_type: str, **fields) -> DetectorSpec:
    names = {"sagittal_t2": 5, "sagittal_t1": 5, "axial_t2": 2}[series_type]
    if fields.get("points") == "series" and series_type != "sagittal_t2":
        names = 10
    given = {"num_classes": names, "in_chans": 5, "image_size": SIZE, "sigma_px": 4.0, **fields}
    return DetectorSpec(series_type=series_type, **given)


def whole(series_type: str, **fields) -> DetectorSpec:
    given = {"answer": "slices", "place": "whole", "points": "series", "in_chans": 11, **fields}
    return spec_of(series_type, **given)


def seers(*specs: DetectorSpec, **says) -> list:
    return [(spec, Seer(spec, **says)) for spec in specs]


#: The first place's way: slices, then places around them, then the axial plane nearest to each canal point.
FIRST = (
    whole("sagittal_t2"),
    spec_of("sagittal_t2", place="found", answer="points"),
    whole("sagittal_t1"),
    spec_of("sagittal_t1", place="found", in_chans=3, answer="points"),
    spec_of("axial_t2", in_chans=1, answer="points"),
)
#: The fifth and the seventh place's: whole series in three dimensions, axial slices of several series by confidence.
WHOLE = (
    whole("sagittal_t2", answer="points", depth=True, in_chans=24),
    whole("sagittal_t1", answer="points", depth=True, in_chans=24, resample="linear"),
    whole("axial_t2", in_chans=15),
    spec_of("axial_t2", place="found", in_chans=1),
)
BESIDE = (
    spec_of(
        "sagittal_t2",
        place="whole",
        points="series",
        beside="sagittal_t1",
        num_classes=15,
        answer="points",
        depth=True,
        in_chans=22,
    ),
    spec_of("axial_t2", levels_by="segments", in_chans=3),
)
#: The second place's third author's: two finders of axial slices, one of which is told of the canal's points.
DISTANCES = (
    *FIRST[:4],
    whole("axial_t2", in_chans=15),
    whole("axial_t2", in_chans=15, pad=True, canal_distances=True),
    spec_of("axial_t2", place="found", in_chans=1),
)
CHAINS = {"first": FIRST, "whole": WHOLE, "beside": BESIDE, "distances": DISTANCES}


def by_name(points) -> dict:
    return {point.name: point for point in points}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
def test_every_chain_finds_every_keypoint_on_its_own_slice(chain) -> None:
    points, issues = detect(bent_study(), seers(*chain))
    assert issues == []
    found = by_name(points)
    assert found.keys() == TRUE.keys()
    for name, mm in TRUE.items():
        assert found[name].mm == pytest.approx(mm, abs=3.2), name  # a pixel of the network's image is 3.1 mm high
        assert abs(found[name].mm[0] - mm[0]) < 2.0, name
        assert not found[name].repaired
        assert found[name].confidence > 0.5


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS.keys())
def test_the_study_in_a_mirror_has_its_keypoints_on_the_other_side(chain) -> None:
    ours, theirs = (by_name(detect(each, seers(*chain))[0]) for each in (bent_study(), mirrored_study(bent_study())))
    for (condition, level), point in ours.items():
        other = theirs[mirrored(condition), level]
        assert other.mm == pytest.approx(np.array(point.mm) * [-1, 1, 1], abs=1.5)  # half a pixel of an axial slice
        assert other.slice_from == point.slice_from


def test_keypoints_say_where_their_slices_come_from() -> None:
    found = by_name(detect(bent_study(), seers(*FIRST))[0])
    assert {name[0]: point.slice_from for name, point in found.items()} == {
        "spinal_canal_stenosis": "found",
        "left_neural_foraminal_narrowing": "found",
        "right_neural_foraminal_narrowing": "found",
        "left_subarticular_stenosis": "plane",
        "right_subarticular_stenosis": "plane",
    }
    assert [found["spinal_canal_stenosis", level].instance for level in LEVELS] == [9, 8, 8, 7, 8]
    deep = by_name(detect(bent_study(), seers(*WHOLE))[0])
    assert deep["spinal_canal_stenosis", "l1_l2"].slice_from == "answer"
    assert deep["left_subarticular_stenosis", "l1_l2"].slice_from == "found"


def test_a_place_between_slices_is_one_in_the_patient() -> None:
    spec = whole("sagittal_t2", answer="points", depth=True, in_chans=11)
    (plain,), (between,) = ([detect(bent_study(), seers(spec, says=says))[0][2]] for says in ((0, 0, 0), (0, 0, 0.4)))
    assert between.mm[0] - plain.mm[0] == pytest.approx(0.4 * 4.5, abs=1e-3)
    assert between.instance == plain.instance


def test_nothing_found_is_a_value_with_an_issue() -> None:
    class Silent(Seer):
        def __call__(self, stacks):
            return super().__call__(stacks) * float("nan")

    slices, points = whole("sagittal_t2"), FIRST[1]
    found, issues = detect(bent_study(), [(slices, Silent(slices)), (points, Seer(points))])
    assert found == []
    assert [(issue.code, issue.detail) for issue in issues] == [
        (
            "keypoint_missing",
            "Spinal Canal Stenosis L1/L2, L2/L3, L3/L4, L4/L5, L5/S1: no keypoint, since no slice of theirs was found "
            "before",
        )
    ]
    found, issues = detect(bent_study(), [(slices, Seer(slices)), (points, Silent(points))])
    assert found == []
    assert "no keypoint, since the detector says nothing" in issues[0].detail


def test_where_no_slice_is_found_the_middle_may_be_looked_at() -> None:
    """With an Issue, on sagittal series; slices that were found are not passed over."""

    class Silent(Seer):
        def __call__(self, stacks):
            return super().__call__(stacks) * float("nan")

    for series_type, usual in (("sagittal_t2", "middle"), ("sagittal_t1", "offset")):
        slices = whole(series_type)
        points = spec_of(series_type, place="found", answer="points", unfound="middle")
        found, issues = detect(bent_study(), [(slices, Silent(slices)), (points, Seer(points))])
        plain, _ = detect(bent_study(), seers(spec_of(series_type, place=usual, answer="points")))
        assert [replace(point, peak=0.0) for point in found] == [replace(point, peak=0.0) for point in plain]
        assert {point.slice_from for point in found} == {usual}
        sides = 1 if usual == "middle" else 2
        assert [issue.code for issue in issues] == ["slice_guessed"] * sides
        assert "no detector found a slice; keypoints were looked for" in issues[0].detail
        seen, issues = detect(bent_study(), seers(slices, points))
        assert {point.slice_from for point in seen} == {"found"}
        assert not [issue for issue in issues if issue.code == "slice_guessed"]


def test_what_an_earlier_step_found_stays_where_a_later_one_finds_nothing() -> None:
    class Silent(Seer):
        def __call__(self, stacks):
            return super().__call__(stacks) * float("nan")

    deep = whole("sagittal_t2", answer="points", depth=True)
    later = FIRST[1]
    alone, _ = detect(bent_study(), seers(deep))
    points, issues = detect(bent_study(), [(deep, Seer(deep)), (later, Silent(later))])
    assert points == alone
    assert issues == []


def test_a_size_stays_with_its_keypoint() -> None:
    boxes = spec_of("sagittal_t2", answer="boxes", stride=4)
    slices, found = whole("sagittal_t2"), spec_of("sagittal_t2", place="found", answer="points")
    points, _ = detect(bent_study(), seers(boxes, slices, found))
    # 8 x 4 pixels of 64 x 64, on a slice of 80 x 100 pixels of 2 mm
    assert {point.size_mm for point in points} == {(8 / 64 * 160, 4 / 64 * 200)}
    assert {point.slice_from for point in points} == {"found"}


def test_an_implausible_place_is_repaired_onto_the_slice_nearest_to_it() -> None:
    spec = whole("sagittal_t2", answer="points", depth=True)

    class Wrong(Seer):
        def __call__(self, stacks):
            shares = super().__call__(stacks).clone()
            shares[:, 2] = 0.05
            return shares

    points, issues = detect(bent_study(), [(spec, Wrong(spec))])
    assert [issue.code for issue in issues] == ["keypoint_repaired"]
    fixed = by_name(points)["spinal_canal_stenosis", "l3_l4"]
    assert fixed.repaired
    assert fixed.mm == pytest.approx(TRUE["spinal_canal_stenosis", "l3_l4"], abs=5)
    assert fixed.instance in (7, 8)


class Honest(Seer):
    """Is surer of a picture with sharp spots."""

    def _one(self, stack: torch.Tensor) -> torch.Tensor:
        return super()._one(stack) * (0.95 if stack.amax() > 8 else 0.7)


def test_the_surest_series_of_a_type_counts() -> None:
    dull = sagittal(4, count=13, paint=spots("canal_stenosis", 9.0))
    study = bent_study(sagittal_t2=(dull, *bent_study().series["sagittal_t2"]))
    best = spec_of("sagittal_t2")
    every = best.model_copy(update={"preprocessing": Preprocessing(series="all")})
    for spec, chosen in ((best, 4), (every, 1)):
        points, issues = detect(study, [(spec, Honest(spec))])
        assert {point.series_id for point in points} == {chosen}
        assert len(points) == 5
        assert issues == []


@pytest.mark.parametrize(("frame", "chosen"), [("here", 1), ("elsewhere", 4)])
def test_points_of_one_frame_of_reference_only_stand_beside_each_other(frame: str, chosen: int) -> None:
    """A series that shows only L1/L2, more surely than the other shows all five."""

    class OneLevel(Honest):
        def _one(self, stack: torch.Tensor) -> torch.Tensor:
            answer = super()._one(stack)
            answer[1:] *= float("nan") if stack.amax() > 8 else 1.0
            return answer

    def moved(item, identity: str, down: float):
        affine = item.affine.copy()
        affine[2, 3] -= down
        return replace(item, affine=affine, identity=Identity(frame_of_reference=identity))

    dull = sagittal(4, paint=spots("canal_stenosis", 9.0))
    sharp = sagittal(1, count=13, paint=spots("canal_stenosis"))
    series = [
        Series(each.series_id, "", "sagittal", tuple(moved(item, named, down) for item in each.slices), each.slabs)
        for each, named, down in ((dull, "here", 0.0), (sharp, frame, 0.0 if frame == "here" else 300.0))
    ]
    spec = spec_of("sagittal_t2", preprocessing=Preprocessing(series="all", keypoints="keep"))
    points, _ = detect(bent_study(sagittal_t2=series, sagittal_t1=(), axial_t2=()), [(spec, OneLevel(spec))])
    assert [point.series_id for point in points] == [chosen, 4, 4, 4, 4]


def test_of_several_axial_series_the_nearest_or_the_surest_counts() -> None:
    near, far = ([[float(mm[2]) + step] for mm in reversed(CANAL.values())] for step in (0, 4))
    dull = axial(3, near, paint=spots("subarticular_stenosis", 12.0))
    study = bent_study(axial_t2=(dull, axial(4, far, paint=spots("subarticular_stenosis"))))
    for series, chosen in (("best", 3), ("all", 4)):
        given = {"in_chans": 1, "max_plane_distance_mm": 8.0, "preprocessing": Preprocessing(series=series)}
        spec = spec_of("axial_t2", **given)
        points, _ = detect(study, [*seers(spec_of("sagittal_t2")), (spec, Honest(spec))])
        assert [point.series_id for point in points if "subarticular" in point.condition] == [chosen] * 10


def test_a_median_of_slices_is_one_of_places() -> None:
    spec = whole("sagittal_t2", join="median")
    deep = whole("sagittal_t2", join="median", answer="points", depth=True)
    members = [(spec, Seer(spec)), (deep, Seer(deep, says=(0, 0, 0.2))), (deep, Seer(deep, says=(3, 0, -3)))]
    points, _ = detect(bent_study(), members)
    alone = by_name(detect(bent_study(), seers(deep))[0])
    for point in points:
        assert point.instance == alone[point.name].instance
        assert point.slice_from == "answer"
        assert point.mm[0] == pytest.approx(alone[point.name].mm[0], abs=1e-4)  # the middle one of the three
        assert point.mm[1] > alone[point.name].mm[1]  # between the two that say where


def test_grey_values_are_those_of_the_stack_or_of_each_slice_and_empty_slices_stay_black() -> None:
    values = np.arange(3 * 16, dtype=np.float32).reshape(3, 4, 4)
    there = np.array([True, True, False])
    for scope, black, white in (("stack", [0, 16 / 31], [15 / 31, 1]), ("slice", [0, 0], [1, 1])):
        spec = spec_of("sagittal_t2", intensity="minmax", scope=scope)
        seen = as_seen(values, there, spec)
        assert seen[:2].min((1, 2)) == pytest.approx(black)
        assert seen[:2].max((1, 2)) == pytest.approx(white)
        assert not seen[2].any()
        finish = finish_of_stacks(spec)
        assert finish is not None
        assert finish(torch.tensor([-0.5, 0.25, 1.5])).tolist() == [0, 0.25, 1]
    cut = as_seen(values, there, spec_of("sagittal_t2", intensity="percentile", percentiles=(10.0, 90.0)))
    assert (cut[:2] == 0).sum() == (cut[:2] == 1).sum() == 4
    alone = as_seen(values, there, spec_of("sagittal_t2", scope="slice"))
    assert alone[:2].mean((1, 2)) == pytest.approx([0, 0], abs=1e-6)
    assert finish_of_stacks(spec_of("sagittal_t2")) is None


@pytest.mark.parametrize("answer", ["slices", "points"])
def test_a_slice_beyond_the_series_is_replaced_by_the_usual_one_and_told(answer: str) -> None:
    """The first place's rule, sides as each other's mirror image; where most finders are right their median stands."""
    given = {"answer": answer, "join": "median", "in_chans": 16, "pad": True, "beyond": "usual"}
    given |= {"depth": True, "decode": "slice"} if answer == "points" else {}
    slices = {kind: whole(kind, **given) for kind in ("sagittal_t2", "sagittal_t1")}
    around = [spec_of(kind, place="found", in_chans=3, answer="points") for kind in slices]

    class Far(Seer):
        def _one(self, stack: torch.Tensor) -> torch.Tensor:
            raw = super()._one(stack)
            raw[:, -1] = 1e4 if answer == "slices" else 15 / 16  # the last place of the stack
            return raw

    def found(*networks: type[Seer]) -> tuple[dict, list]:
        chain = [(spec, kind(spec)) for spec in slices.values() for kind in networks]
        points, issues = detect(bent_study(), [*chain, *seers(*around)])
        return by_name(points), [issue.detail for issue in issues if issue.code == "slice_replaced"]

    numbers = [item.instance for item in bent_study().series["sagittal_t1"][0].slices]
    usual, told = found(Far)
    assert "its slice was found beyond the last one" in told[0]
    places = {condition: numbers.index(usual[condition, "l3_l4"].instance) for condition, _ in usual}
    assert [places[name] for name in CONDITIONS[:3]] == [5, 7, 3]
    right, told = found(Far, Seer, Seer)
    assert not told
    assert {name: point.instance for name, point in right.items()} == {
        name: point.instance for name, point in found(Seer)[0].items()
    }


@pytest.mark.parametrize(
    ("resample", "pad", "count", "wanted", "shown"),
    [
        ("nearest", False, 11, 4, [0, 2, 5, 8]),
        ("nearest-exact", False, 11, 4, [1, 4, 6, 9]),
        ("linear", False, 11, 4, [0.875, 3.625, 6.375, 9.125]),
        ("nearest", False, 3, 5, [0, 0, 1, 1, 2]),
        ("linear", False, 3, 5, [0, 0.4, 1, 1.6, 2]),
        ("nearest", True, 3, 5, [0, 1, 2, np.nan, np.nan]),
        ("linear", True, 11, 4, [0.875, 3.625, 6.375, 9.125]),
    ],
)
def test_a_whole_series_is_brought_to_the_slices_of_the_stack(resample, pad, count, wanted, shown) -> None:
    series = sagittal(count=count)
    spec = whole("sagittal_t2", in_chans=wanted, resample=resample, pad=pad)
    (stack,), _ = stacks_for(bent_study(sagittal_t2=(series,)), spec, Known())
    span = stack.spans["sagittal_t2"]
    assert span.source.tolist() == pytest.approx(shown, nan_ok=True)
    assert stack.pixels.shape == (wanted, SIZE, SIZE)
    for place, index in enumerate(shown):
        if np.isnan(index):
            assert not stack.pixels[place].any()
        else:
            assert span.index_at(place) == pytest.approx(index)
            assert span.index_at(span.place_of(index)) == pytest.approx(index)


def test_labelled_keypoints_come_back_from_the_stacks_that_training_sees() -> None:
    study = bent_study()
    labels = by_name(detect(study, seers(*WHOLE))[0])
    for spec in (*WHOLE, *FIRST, *BESIDE):
        stacks, _ = stacks_for(study, spec, Known(labels, labelled=True))
        assert len(stacks) == spec.stacks
        for stack in stacks:
            for name in channel_names(spec, stack.side, stack.level):
                x, y, place = stack.from_keypoint(labels[name])
                if not np.isnan(place):
                    span = stack.span(name)
                    assert span.between([x, y], span.index_at(place)) == pytest.approx(labels[name].mm, abs=2.3), name
                assert np.isfinite([x, y]).all()


def test_a_missing_series_beside_is_empty_and_the_other_one_is_looked_at() -> None:
    spec = BESIDE[0]
    (both,), _ = stacks_for(bent_study(), spec, Known())
    (alone,), _ = stacks_for(bent_study(sagittal_t1=()), spec, Known())
    assert np.array_equal(alone.pixels[:22], both.pixels[:22])
    assert not alone.pixels[22:].any()
    (other,), _ = stacks_for(bent_study(sagittal_t2=()), spec, Known())
    assert not other.pixels[:22].any()
    assert np.array_equal(other.pixels[22:], both.pixels[22:])
    points, _ = detect(bent_study(sagittal_t1=()), seers(spec))
    assert {point.condition for point in points} == {"spinal_canal_stenosis"}
    points, _ = detect(bent_study(sagittal_t2=()), seers(spec))
    assert {point.condition for point in points} == {name for name, _ in TRUE if "foraminal" in name}
