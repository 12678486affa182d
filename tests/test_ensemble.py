"""The blend: who speaks is heard, by weight and in no order; where nobody does, the prior stands."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lumbar.ensemble.average import BLEND_METHODS, blend

PRIOR = np.random.default_rng(9).dirichlet([4, 2, 1], size=(5, 5))

methods = st.sampled_from(BLEND_METHODS)


@st.composite
def ensembles(draw: st.DrawFn) -> np.ndarray:
    """Probabilities (M, 5, 5, 3), some members silent in some cells."""
    members = draw(st.integers(1, 5))
    silent = draw(hnp.arrays(bool, (members, 5, 5)))
    drawn = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).dirichlet([1.5, 0.8, 0.5], size=(members, 5, 5))
    return np.where(silent[..., None], np.nan, drawn)


@given(ensembles(), methods)
def test_each_cell_is_the_mean_of_its_speakers_or_the_prior(members, method):
    blended, spoken = blend(members, PRIOR, method)
    for cell in np.ndindex(5, 5):
        said = [member[cell] for member in members if not np.isnan(member[cell]).any()]
        assert spoken[cell] == bool(said)
        if not said:
            expected = PRIOR[cell]
        elif method == "mean":
            expected = np.mean(said, axis=0)
        elif method == "median":
            expected = np.median(said, axis=0)
        elif method == "mean_odds":
            odds = np.prod([row / (1 - row) for row in np.array(said)], axis=0) ** (1 / len(said))
            expected = odds / (1 + odds)
        else:
            expected = np.prod(said, axis=0) ** (1 / len(said))
        np.testing.assert_allclose(blended[cell], expected / np.sum(expected), rtol=1e-9)


@given(ensembles(), methods, st.randoms(use_true_random=False))
def test_order_of_the_members_changes_nothing(members, method, random):
    weights = np.arange(1, len(members) + 1)
    order = random.sample(range(len(members)), len(members))
    blended, spoken = blend(members, PRIOR, method, weights)
    shuffled, shuffled_spoken = blend(members[order], PRIOR, method, weights[order])
    np.testing.assert_allclose(shuffled, blended, rtol=1e-12)
    np.testing.assert_array_equal(shuffled_spoken, spoken)


@given(ensembles(), methods)
def test_result_is_a_distribution(members, method):
    blended, _ = blend(members, PRIOR, method)
    assert blended.dtype == np.float64
    assert (blended > 0).all()
    np.testing.assert_allclose(blended.sum(axis=-1), 1, atol=1e-12)


@given(ensembles(), methods)
def test_weighing_a_member_twice_is_listing_it_twice(members, method):
    weights = np.ones(len(members))
    weights[0] = 2
    np.testing.assert_allclose(
        blend(members, PRIOR, method, weights)[0], blend(np.concatenate([members[:1], members]), PRIOR, method)[0]
    )


@pytest.mark.parametrize("method", BLEND_METHODS)
def test_one_member_is_passed_on_as_it_is(method):
    member = np.random.default_rng(0).dirichlet([1, 1, 1], size=(5, 5))
    blended, spoken = blend(member[None], PRIOR, method)
    np.testing.assert_allclose(blended, member, rtol=1e-9)
    assert spoken.all()


@pytest.mark.parametrize("method", BLEND_METHODS)
@pytest.mark.parametrize("members", [0, 1, 4])
def test_prior_stands_where_all_are_silent(method, members):
    blended, spoken = blend(np.full((members, 5, 5, 3), np.nan), PRIOR, method)
    np.testing.assert_allclose(blended, PRIOR, rtol=1e-12)
    assert not spoken.any()


@pytest.mark.parametrize("method", BLEND_METHODS)
def test_member_of_weight_zero_is_silent(method):
    members = np.random.default_rng(0).dirichlet([1, 1, 1], size=(2, 5, 5))
    np.testing.assert_allclose(blend(members, PRIOR, method, [0, 3])[0], members[1], rtol=1e-9)
    blended, spoken = blend(members[:1], PRIOR, method, [0])
    np.testing.assert_allclose(blended, PRIOR)
    assert not spoken.any()


def test_the_two_methods_differ():
    members = np.array([[0.9, 0.05, 0.05], [0.1, 0.8, 0.1]])[:, None, None]
    prior = PRIOR[:1, :1]
    np.testing.assert_allclose(blend(members, prior, "mean")[0][0, 0], [0.5, 0.425, 0.075])
    geometric = np.sqrt([0.09, 0.04, 0.005])
    np.testing.assert_allclose(blend(members, prior, "mean_logits")[0][0, 0], geometric / geometric.sum())


def test_an_underflowed_probability_neither_vetoes_for_ever_nor_warns():
    members = np.broadcast_to(np.array([[1.0, 0, 0], [0.2, 0.3, 0.5]])[:, None, None], (2, 5, 5, 3))
    blended, _ = blend(members, PRIOR, "mean_logits")
    assert np.isfinite(blended).all()
    assert (blended > 0).all()
    assert (blended.argmax(axis=-1) == 0).all()


def test_half_precision_members_blend_in_double():
    members = np.random.default_rng(0).dirichlet([1, 1, 1], size=(3, 5, 5)).astype(np.float16)
    blended, _ = blend(members, PRIOR)
    np.testing.assert_allclose(blended.sum(axis=-1), 1, atol=1e-12)


def test_input_is_left_as_it_was():
    members = np.random.default_rng(0).dirichlet([1, 1, 1], size=(2, 5, 5)) * 2
    members[0, 1] = np.nan
    before = members.copy()
    blend(members, PRIOR)
    np.testing.assert_array_equal(members, before)


@pytest.mark.parametrize("bad", [[0.5, np.nan, 0.5], [0.5, -0.1, 0.6], [np.inf, 0, 0], [0, 0, 0]])
def test_cell_that_is_neither_said_nor_silent_is_refused(bad):
    members = np.full((2, 5, 5, 3), 1 / 3)
    members[1, 2, 3] = bad
    with pytest.raises(ValueError, match=r"NaN in part|negative, infinite or all zero"):
        blend(members, PRIOR)


def test_wrong_shapes_weights_and_methods_are_refused():
    members = np.full((2, 5, 5, 3), 1 / 3)
    with pytest.raises(ValueError, match="do not fit a prior"):
        blend(members[0], PRIOR)
    with pytest.raises(ValueError, match="unknown blend method 'vote'; known: mean, mean_logits, mean_odds, median"):
        blend(members, PRIOR, "vote")
    for weights in ([1], [1, -1], [1, np.nan]):
        with pytest.raises(ValueError, match="2 weights wanted"):
            blend(members, PRIOR, weights=weights)
