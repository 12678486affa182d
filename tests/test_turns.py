"""Test-time augmentation of detectors: answers to turned stacks, turned back."""

import numpy as np
import pytest
import torch
from test_chain import by_name, seers, spec_of, whole

from lumbar.keypoints.detect import detect
from lumbar.labels import mirrored
from lumbar.recipe.detector import DetectorSpec
from lumbar.recipe.preprocessing import Preprocessing
from tests.support.scoliosis import Seer, bent_study, mirrored_study

PATIENT = Preprocessing(side_order="patient")
T2 = spec_of("sagittal_t2")
#: Every kind of answer with every turn that it can follow. The fake detectors know a name by place, so that they are
#: asked in turns that keep it: levels by rows, sides by columns of axial images.
CASES = [
    spec_of("sagittal_t2", tta=["columns", "slices", "mirror"]),
    spec_of("sagittal_t2", tta=["columns"], answer="points"),
    spec_of("sagittal_t2", tta=["columns", "slices"], answer="boxes", stride=4),
    spec_of("sagittal_t1", tta=["mirror", "slices"], in_chans=3, preprocessing=PATIENT),
    whole("sagittal_t2", tta=["columns", "slices"], answer="points", depth=True),
    whole("sagittal_t2", tta=["slices"], answer="points", depth=True, in_chans=16, pad=True),
    whole("sagittal_t1", tta=["mirror"], answer="points", depth=True),
    whole("sagittal_t1", tta=["mirror", "columns"], answer="heatmaps", depth=True),
    spec_of("axial_t2", tta=["mirror", "rows", "slices"], in_chans=3),
    spec_of("axial_t2", tta=["mirror", "rows"], answer="boxes", stride=2, in_chans=1),
    whole("axial_t2", tta=["mirror"], answer="points", depth=True, in_chans=15),
]


def chain_of(spec: DetectorSpec) -> list:
    """The detector, behind those that it needs."""
    return [*(seers(T2) if spec.placed == "plane" else []), *seers(spec)]


@pytest.mark.parametrize("spec", CASES, ids=lambda spec: f"{spec.series_type}-{spec.answer}-{'-'.join(spec.tta)}")
def test_turned_back_answers_agree_with_the_plain_one_and_change_sides_in_the_mirror(spec: DetectorSpec) -> None:
    plain = by_name(detect(bent_study(), chain_of(spec.model_copy(update={"tta": ()})))[0])
    study = bent_study()
    ours, theirs = (by_name(detect(each, chain_of(spec))[0]) for each in (study, mirrored_study(study)))
    assert ours.keys() == plain.keys()
    for name, point in ours.items():
        assert point.mm == pytest.approx(plain[name].mm, abs=1.3)  # two pixels may be equally bright
    for (condition, level), point in ours.items():
        other = theirs[mirrored(condition), level]
        assert other.mm == pytest.approx(np.array(point.mm) * [-1, 1, 1], abs=1.5)  # half a pixel of an axial slice
        assert other.size_mm == pytest.approx(point.size_mm)


def test_slices_of_a_padded_series_are_turned_and_the_empty_ones_stay_behind() -> None:
    spec = whole("sagittal_t1", tta=["mirror"], in_chans=16, pad=True)
    seen = []

    class Recording(Seer):
        def __call__(self, stacks: torch.Tensor) -> torch.Tensor:
            seen.append(stacks.clone())
            return super().__call__(stacks)

    detect(bent_study(), [(spec, Recording(spec))])
    first, second = seen
    assert torch.equal(second[:, :11], first[:, :11].flip(1))
    assert not first[:, 11:].any()
    assert not second[:, 11:].any()


def test_slices_found_in_turned_stacks_are_those_of_the_plain_ones() -> None:
    for spec in (whole("sagittal_t2", tta=["slices"]), whole("sagittal_t2", tta=["columns"])):
        found = spec_of("sagittal_t2", place="found", answer="points")
        ours = by_name(detect(bent_study(), seers(spec, found))[0])
        plain = by_name(detect(bent_study(), seers(spec.model_copy(update={"tta": ()}), found))[0])
        assert ours == plain
