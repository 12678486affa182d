"""What a likeness is of drawn features: the bar of single regions, and the weighting of a study."""

import numpy as np

from lumbar.grading import likeness
from lumbar.grading.likeness import Features, learn, of_member
from tests.support.worlds import grader_spec


def drawn(count: int, seed: int, far: float = 0.0) -> list[Features]:
    rng = np.random.default_rng(seed)
    return [[("sagittal_t2", level, rng.standard_normal(40) + far) for level in range(5)] for _ in range(count)]


def test_the_bar_lets_one_in_a_hundred_regions_pass_that_no_fit_has_seen() -> None:
    spec = grader_spec("spinal")
    known = learn(drawn(300, 0), spec)
    assert list(known) == ["sagittal_t2"]
    new = np.array([of_member(one, spec, known)[0] for one in drawn(1000, 1)])
    assert 0.004 < (new > 1).mean() < 0.02
    assert np.isnan(of_member(drawn(1, 2)[0], spec, known)[1:]).all(), "it grades nothing else"
    far = np.array([of_member(one, spec, known)[0] for one in drawn(20, 3, far=1.5)])
    assert (far > 1).mean() > 0.95
    assert learn(drawn(likeness.LEAST_STUDIES - 1, 0), spec) == {}
    same = [[("sagittal_t2", level, np.ones(6)) for level in range(5)] for _ in range(20)]
    assert np.isfinite(of_member([("sagittal_t2", 0, np.zeros(6))], spec, learn(same, spec))[0, 0])


def test_a_weighting_is_told_by_the_mean_of_a_study_where_no_region_tells() -> None:
    spec = grader_spec("spinal")
    known = learn(drawn(300, 0), spec, drawn(200, 1, far=0.25))
    alone = learn(drawn(300, 0), spec)
    sound = np.array([of_member(one, spec, known)[0] for one in drawn(1000, 2)])
    assert 0.005 < (sound.max(1) > 1).mean() < 0.1
    other = drawn(100, 3, far=0.25)
    assert (np.array([of_member(one, spec, known)[0] for one in other]) > 1).mean() > 0.5
    assert (np.array([of_member(one, spec, alone)[0] for one in other]) > 1).mean() < 0.1
    same = [[("sagittal_t2", level, np.ones(6)) for level in range(5)] for _ in range(20)]
    assert learn(same, spec, same)["sagittal_t2"].weighting is None
    assert learn(drawn(300, 0), spec, drawn(5, 1))["sagittal_t2"].weighting is None, "too few to learn it from"
    assert known["sagittal_t2"].weighting is not None
