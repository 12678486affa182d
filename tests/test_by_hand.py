"""What is set of a blend by hand: weights, inner blends, temperatures, factors; and others' recorded arithmetic."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from conftest import ROOT, SHARED

import train_utils
from lumbar.bundle.blend import FittedBlend, store_blend
from lumbar.ensemble import by_hand, cellwise, methods
from lumbar.ensemble.average import blend, log_odds, sigmoid
from lumbar.ensemble.cells import GROUPS, MIRROR, Cells
from lumbar.ensemble.fit import Fit
from lumbar.ensemble.objective import loss_and_gradient, softmax
from lumbar.ensemble.store import Blender
from lumbar.issues import InputError
from lumbar.labels import CONDITION_GROUPS, LABEL_COLUMNS
from lumbar.metric import UNLABELLED
from lumbar.recipe.blend import Around, Blend
from lumbar.recipe.recipe import load_recipe
from tests.support.recorded.record import records
from tests.support.rule_weights import normal
from tests.test_blend import world, write_world

PARITY = SHARED / "parity"
PRIOR = np.random.default_rng(9).dirichlet([4, 2, 1], size=(5, 5))


def recorded(name: str) -> Any:
    path = PARITY / name
    if not path.is_file():
        pytest.skip(f"needs the recorded numbers in {path}")
    return json.loads(path.read_text())


def settings(**values: Any) -> Blend:
    return Blend.model_validate({"method": "weighted", **values})


def weighed(settings: Blend, members: np.ndarray, names: tuple[str, ...]) -> np.ndarray:
    """The blend of one study (M, 5, 5, 3)."""
    return methods.predict(by_hand.weighted(names, settings), Cells(members[None], PRIOR))[0]


def drawn(members: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).dirichlet([2, 1, 1], size=(members, 5, 5))


def test_weights_hold_for_their_group_and_silence_shares_them_out_anew() -> None:
    members = drawn(3)
    members[0, 1, 2] = np.nan
    weights = {"spinal": {"a": 2, "b": 1}, "foraminal": {"a": 1, "c": 3}}
    found = weighed(settings(weights=weights), members, ("a", "b", "c"))
    np.testing.assert_allclose(found[0], (2 * members[0, 0] + members[1, 0]) / 3)
    np.testing.assert_allclose(found[2], (members[0, 2] + 3 * members[2, 2]) / 4)
    np.testing.assert_allclose(found[1, 2], members[2, 1, 2])
    np.testing.assert_allclose(found[3:], members[:, 3:].mean(axis=0))  # no weights: all alike


def test_where_nobody_with_a_weight_speaks_the_prior_stands_and_is_named_so() -> None:
    members = drawn(2)
    members[0, 0, 4] = np.nan
    fitted = by_hand.weighted(("a", "b"), settings(weights={"spinal": {"a": 1}}))
    cells = Cells(members[None], PRIOR)
    np.testing.assert_allclose(methods.predict(fitted, cells)[0, 0, 4], PRIOR[0, 4])
    assert not methods.spoken(fitted, cells)[0, 0, 4]
    assert methods.spoken(fitted, cells).sum() == 24


@pytest.mark.parametrize("on", ["probabilities", "logits", "odds"])
def test_inner_blends_are_blended_first_with_their_own_factors(on: str) -> None:
    members, factors = drawn(3), (1.0, 2.0, 5.0)
    weights = {group: {"a": 1, "b": 3} for group in CONDITION_GROUPS}
    part = {"on": on, "weights": weights, "multipliers": {"spinal": factors}}
    outer = {group: {"pair": 2, "c": 1} for group in CONDITION_GROUPS}
    found = weighed(settings(weights=outer, inner={"pair": part}), members, ("a", "b", "c"))
    pair, _ = blend(members[:2], PRIOR, by_hand.AVERAGES[on], [1, 3])  # type: ignore[index]
    pair[0] = pair[0] * factors / (pair[0] * factors).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(found, (2 * pair + members[2]) / 3)


def test_an_inner_blend_that_is_silent_leaves_its_weight_to_the_others() -> None:
    members = drawn(3)
    members[:2, 3] = np.nan
    part = {"weights": {group: {"a": 1, "b": 1} for group in CONDITION_GROUPS}}
    outer = {group: {"pair": 9, "c": 1} for group in CONDITION_GROUPS}
    found = weighed(settings(weights=outer, inner={"pair": part}), members, ("a", "b", "c"))
    np.testing.assert_allclose(found[3], members[2, 3])


@pytest.mark.parametrize("method", ["mean", "weighted", "cells"])
def test_a_mirrored_study_gives_mirrored_rows(method: str) -> None:
    members, codes = world(30, seed=2)
    cells = Cells(members, (PRIOR + PRIOR[MIRROR]) / 2)
    blended = settings(on="logits", weights={"subarticular": {"a": 1, "b": 2}}, multipliers={"foraminal": [1, 2, 5]})
    fitted = by_hand.weighted("abc", blended) if method == "weighted" else methods.fit(method, cells, codes)
    plain, seen = methods.predict(fitted, cells), methods.predict(fitted, cells.mirrored())
    spoken = cells.spoken
    whole, other = by_hand.after(blended, plain, spoken), by_hand.after(blended, seen, spoken[:, MIRROR])
    np.testing.assert_allclose(other, whole[:, MIRROR], atol=1e-12)


def test_the_second_places_missing_row_is_taken_from_another_member() -> None:
    members = drawn(4)
    members[2, 0, 3] = members[2, 4] = np.nan
    members[1, 4, 1] = np.nan  # so is the one that would stand in
    weights = {group: {"yuji": 2, "ian": 2, "pair": 1} for group in CONDITION_GROUPS}
    inner = {"pair": {"weights": {group: {"c": 1} for group in CONDITION_GROUPS}}}
    blended = settings(weights=weights, inner=inner, stands_in={"pair": "ian"})
    found = weighed(blended, members, ("yuji", "ian", "c", "d"))
    np.testing.assert_allclose(found[0, 3], (2 * members[0, 0, 3] + 3 * members[1, 0, 3]) / 5)
    np.testing.assert_allclose(found[4, 1], members[0, 4, 1])
    np.testing.assert_allclose(found[1], ((2 * members[0] + 2 * members[1] + members[2]) / 5)[1])
    with pytest.raises(ValueError, match="stands_in names 'bartley', which is not blended here"):
        by_hand.weighted(("yuji", "ian", "c"), settings(weights=weights, inner=inner, stands_in={"pair": "bartley"}))


def test_a_stand_in_goes_into_a_bundle_as_data(tmp_path: Path) -> None:
    blended = settings(weights={"spinal": {"a": 2, "b": 1}}, stands_in={"b": "a"})
    fitted = by_hand.weighted(("a", "b"), blended)
    blender = Blender(fitted, ("a", "b"), PRIOR)
    stored = store_blend(FittedBlend(blender, {"a": ["a"], "b": ["b"]}), tmp_path)
    again = Blender(Fit(stored.method, json.loads(stored.model_dump_json())["params"]), ("a", "b"), PRIOR)
    members = drawn(2)
    members[1, 0] = np.nan
    np.testing.assert_array_equal(again(members)[0], blender(members)[0])
    np.testing.assert_allclose(again(members)[0][0], members[0, 0])
    assert "stands_in" not in by_hand.weighted(("a", "b"), settings(weights={"spinal": {"a": 2}})).params


def test_temperatures_divide_the_logits_and_leave_silence() -> None:
    logits = np.random.default_rng(1).normal(size=(2, 5, 5, 3))
    members = softmax(logits)
    members[1, 0, 0] = np.nan
    found = by_hand.before(Around(temperatures={"spinal": 2.0}), members)
    np.testing.assert_allclose(found[0, 0], softmax(logits[0, 0] / 2))
    np.testing.assert_array_equal(found[:, 1:], members[:, 1:])
    assert np.isnan(found[1, 0, 0]).all()


def test_factors_move_what_members_said_and_never_the_prior() -> None:
    table, spoken = drawn(1)[0], np.ones((5, 5), bool)
    table[0] = [[0.8, 0.08, 0.12], [0.1, 0.0, 0.9], [0.5, 0.4, 0.1], [0.7, 0.2, 0.1], [0.85, 0.1, 0.05]]
    spoken[0, 1] = False
    around = Around(multipliers={"foraminal": (1, 2, 4)}, severe_scaled=1.25)
    found = by_hand.after(around, table, spoken)
    np.testing.assert_allclose(found[1], table[1] * [1, 2, 4] / (table[1] * [1, 2, 4]).sum(axis=-1, keepdims=True))
    changed = np.flatnonzero(~np.isclose(found[0, :, 2], table[0, :, 2] / table[0].sum(axis=-1)))
    assert changed.tolist() == [0]  # the highest that a member graded
    silent = by_hand.after(around, table, np.zeros((5, 5), bool))
    np.testing.assert_allclose(silent, table / table.sum(axis=-1, keepdims=True))


def test_cells_learn_from_their_own_logits_alone_and_do_not_see_a_constant() -> None:
    members, codes = world(60, seed=3, silent=0.2)
    fitted = methods.fit("cells", Cells(members, PRIOR), codes)
    plain = methods.predict(fitted, Cells(members, PRIOR))
    other = members.copy()
    other[:, :, 2, 3] = drawn(3, 5)[:, 0, 0]
    moved = methods.predict(fitted, Cells(other, PRIOR)) != plain
    moved[:, 2, 3] = False
    assert not moved.any()
    scaled = methods.predict(fitted, Cells(members * 0.25, PRIOR))  # log probabilities less a constant
    np.testing.assert_allclose(scaled, plain, atol=1e-12)


def test_cells_tell_silence_from_doubt() -> None:
    members, codes = world(60, seed=3, silent=0.3)
    fitted = methods.fit("cells", Cells(members, PRIOR), codes)
    silent, doubt = members[:1].copy(), members[:1].copy()
    silent[:, 0], doubt[:, 0] = np.nan, 1 / 3
    cells = [Cells(part, PRIOR) for part in (silent, doubt)]
    spoken = cells[0].spoken
    assert not np.isclose(*(methods.predict(fitted, each)[spoken] for each in cells)).all(axis=-1).any()


def test_the_slopes_of_cells_are_those_of_the_official_score() -> None:
    members, codes = world(12, seed=4)
    cells = Cells(members, PRIOR)
    codes = np.where(cells.spoken, codes, UNLABELLED)
    inputs = [cellwise._inputs(cells, group, [0, 1, 2]) for group in range(3)]
    rng = np.random.default_rng(0)
    networks = [cellwise._fresh(part.shape[-1], rng) for part in inputs]
    sums = cellwise.weight_sums(codes)

    def loss() -> float:
        logits = np.empty((*codes.shape, 3))
        for network, part, places in zip(networks, inputs, GROUPS, strict=True):
            logits[:, list(places)] = cellwise.answer(network, part)
        return loss_and_gradient(logits, codes, sums)[0]

    found = cellwise._slopes(networks, inputs, codes, sums)
    for network, own in zip(networks, found, strict=True):
        for name, slope in own.items():
            place = np.unravel_index(np.abs(slope).argmax(), slope.shape)
            network[name][place] += 1e-5
            up = loss()
            network[name][place] -= 2e-5
            assert (up - loss()) / 2e-5 == pytest.approx(slope[place], rel=1e-3)
            network[name][place] += 1e-5


BAD = {
    "a stranger": ({"weights": {"spinal": {"smal": 1}}}, "blend.weights.spinal names 'smal', which is no member of"),
    "less than nothing": ({"weights": {"spinal": {"spinal_small": -1}}}, "spinal_small is -1; allowed: 0"),
    "nobody": ({"weights": {"spinal": {"spinal_small": 0}}}, "weights.spinal gives no member a weight above zero"),
    "no group": ({"weights": {"canal": {"spinal_small": 1}}}, "'canal'"),
    "no weights": ({}, 'method = "weighted" needs weights'),
    "a factor of nothing": ({"method": "mean", "multipliers": {"spinal": [1, 0, 5]}}, "is 0; allowed: 0.001 or more"),
    "a factor of almost nothing": (
        {"method": "mean", "multipliers": {"spinal": [5e-324, 5e-324, 5e-324]}},
        "multipliers.spinal.0 is 5e-324; allowed: 0.001 or more",
    ),
    "a weight of almost nothing": ({"weights": {"spinal": {"spinal_small": 1e-320}}}, "set 0, or 1e-06 or more"),
    "one that answers other conditions": (
        {"weights": {"foraminal": {"spinal_small": 1}}},
        "blend.weights.foraminal names only 'spinal_small', which does not answer foraminal conditions",
    ),
    "two factors": ({"method": "mean", "multipliers": {"spinal": [1, 5]}}, "multipliers.spinal"),
    "scaled by less than nothing": (
        {"method": "mean", "severe_scaled": -1},
        "severe_scaled is -1; allowed: 0.001 or more",
    ),
    "cold": ({"method": "mean", "temperatures": {"spinal": 0}}, "temperatures.spinal is 0; allowed: 0.01 or more"),
    "weights of a mean": (
        {"method": "mean", "weights": {"spinal": {"spinal_small": 1}}},
        'weights needs method = "weighted", not "mean"',
    ),
    "an unheard one": (
        {
            "weights": {group: {f"{group}_small": 1} for group in CONDITION_GROUPS},
            "inner": {"two": {"weights": {"spinal": {"spinal_small": 1}}}},
        },
        "inner.two has no weight anywhere",
    ),
    "one of strangers": (
        {
            "weights": {"spinal": {"two": 1}},
            "inner": {"two": {"weights": {"spinal": {"smal": 1}}}},
        },
        "blend.inner.two.weights.spinal names 'smal'",
    ),
    "one named as a member": (
        {
            "weights": {"spinal": {"spinal_small": 1}},
            "inner": {"spinal_small": {"weights": {"spinal": {"spinal_small": 1}}}},
        },
        "blend.inner.spinal_small has the name of a member",
    ),
}


def toml(value: Any) -> str:
    """A TOML value on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {toml(each)}" for key, each in value.items()) + " }"
    return json.dumps(value)


def with_blend(folder: Path, values: dict[str, Any]) -> Path:
    """The demo's recipe with another blend."""
    lines = [f"{key} = {toml(value)}" for key, value in ({"method": "weighted"} | values).items()]
    text = (ROOT / "recipes" / "demo.toml").read_text(encoding="utf-8")
    assert "[blend]" not in text
    path = folder / "recipe.toml"
    path.write_text(text + "\n[blend]\n" + "\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.mark.parametrize("case", BAD)
def test_a_blend_that_makes_no_sense_is_told_in_one_sentence(tmp_path: Path, case: str) -> None:
    values, words = BAD[case]
    with pytest.raises(InputError) as told:
        load_recipe(with_blend(tmp_path, values))
    assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_a_manifest_keeps_what_stands_around_a_blend_and_nothing_where_there_is_nothing(tmp_path: Path) -> None:
    assert store_blend("mean", tmp_path, Around()).model_dump() == store_blend("mean", tmp_path).model_dump()
    around = Around(temperatures={"spinal": 0.9}, severe_scaled=1.25)
    stored = store_blend("mean", tmp_path, around).model_dump()
    assert stored["temperatures"] == {"spinal": 0.9}
    assert (stored["severe_scaled"], "multipliers" in stored) == (1.25, False)


def test_the_command_takes_weights_and_factors_from_a_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members, codes = world(30, seed=1, silent=0.0)
    labels, tables = write_world(tmp_path, members, codes)
    names = ("spinal_small", "foraminal_small", "subarticular_small")
    for name, path in zip(names, tables, strict=True):
        path.rename(tmp_path / f"{name}.csv")
    values = {"weights": {"spinal": {names[0]: 1, names[2]: 3}}, "on": "logits", "multipliers": {"spinal": [1, 2, 5]}}
    arguments = ["blend", "--labels", labels, "--tables", *(tmp_path / f"{name}.csv" for name in names)]
    arguments += ["--recipe", with_blend(tmp_path, values), "--out", tmp_path / "out", "--folds", 2, "--json"]
    assert train_utils.main([str(word) for word in arguments]) == 0
    assert json.loads(capsys.readouterr().out)["methods"][-1]["method"] == "weighted"
    rows = pd.read_csv(tmp_path / "out" / "blend.csv").set_index("row_id")
    found = rows.loc[[f"1000_{column}" for column in LABEL_COLUMNS]].to_numpy().reshape(5, 5, 3)
    logits = (np.log(members[0, 0]) + 3 * np.log(members[0, 2])) / 4
    expected = softmax(logits)[0] * [1, 2, 5]
    np.testing.assert_allclose(found[0], expected / expected.sum(axis=-1, keepdims=True), atol=1e-4)


def test_weights_by_hand_need_a_recipe(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels, tables = write_world(tmp_path, *world(30, seed=1))
    arguments = ["blend", "--labels", labels, "--tables", *tables, "--method", "weighted"]
    assert train_utils.main([str(word) for word in arguments]) == 1
    assert "--method weighted takes its weights from a recipe; give one that" in capsys.readouterr().err


def test_the_sixth_places_second_level_is_the_recorded_one() -> None:
    (record,) = (each for each in records(ROOT / "tests" / "parity") if each.name == "theo_level2")
    crop = (normal(621, 2, 25, 6) + normal(622, 2, 25, 6)) / 2
    one, two, three, other = (normal(seed, 2, 25, 3) for seed in (625, 626, 627, 628))
    one[:, -10:] = two[:, -10:]
    one[:, :5] = (one[:, :5] + three[:, :5]) / 2
    common = np.concatenate([crop, one, other], axis=-1)
    canal = np.concatenate([common[:, :5], normal(623, 2, 5, 3), normal(624, 2, 5, 3)], axis=-1)
    found = []
    for name, inputs in (("scs", canal), ("nfn", common[:, 5:15]), ("ss", common[:, 15:])):
        w1, b1, w2, b2 = (record.weight(key) for key in record.keys if f"_{name}." in key)
        found.append(cellwise.answer({"w1": w1.T, "b1": b1, "w2": w2.T, "b2": b2}, inputs))
    np.testing.assert_allclose(np.concatenate(found, axis=1), record.outputs()["logits"], atol=1e-4)


def test_the_sixth_places_study_loss_is_the_official_score() -> None:
    at = recorded("sixth/arithmetic.json")["theo_losses"]
    codes = np.maximum(np.array(at["labels"]), 0).reshape(-1, 5, 5)
    logits = np.random.RandomState(642).standard_normal((6, 25, 3)).astype(np.float32).reshape(-1, 5, 5, 3)
    assert loss_and_gradient(logits, codes)[0] == pytest.approx(at["study_weighted_any_all_labelled"], abs=1e-5)


def test_the_second_places_team_blend_is_the_recorded_one() -> None:
    at = recorded("second/geometry.json")["team_blend"]
    members = np.repeat(np.array(at["members"])[:, None], 5, axis=1)  # the canal's rows for every condition
    weights = {group: {"yuji": 2, "ian": 2, "bartley": 1} for group in CONDITION_GROUPS}
    blended = weighed(settings(weights=weights), members, ("yuji", "ian", "bartley"))
    np.testing.assert_allclose(blended[0], at["blend"], atol=2e-6)
    scaled = by_hand.after(Around(severe_scaled=1.25), blended, np.ones((5, 5), bool))
    np.testing.assert_allclose(scaled[0], at["after_severe_x1.25"], atol=2e-6)
    np.testing.assert_array_equal(scaled[1:], blended[1:] / blended[1:].sum(axis=-1, keepdims=True))


def test_the_second_places_views_and_multipliers_are_the_recorded_ones() -> None:
    at = recorded("second/geometry.json")["yuji"]["blend"]
    for row, group in enumerate(CONDITION_GROUPS):
        weight = at["weights_axial"][group]
        odds = weight * np.array(at["A"][row]) + (1 - weight) * np.array(at["S"][row])
        table = np.broadcast_to(sigmoid(odds), (5, 5, 3))
        np.testing.assert_allclose(log_odds(table)[0, 0], odds, atol=1e-9)
        found = by_hand.multiplied(table, at["multipliers"])[GROUPS[row][0], 0]
        np.testing.assert_allclose(found, at["p"][group], atol=2e-6)


def test_the_third_places_temperatures_are_the_recorded_ones() -> None:
    at = recorded("third/geometry.json")["temperature"]
    for logits, spinal, side in zip(at["logits"], at["spinal"]["p"], at["side"]["p"], strict=True):
        members = np.broadcast_to(softmax(np.array(logits)), (1, 5, 5, 3))
        groups = {"spinal": at["spinal"]["T"], "foraminal": at["side"]["T"], "subarticular": at["side"]["T"]}
        found = by_hand.before(Around(temperatures=groups), members)[0, :, 0]
        np.testing.assert_allclose(found[0], spinal, atol=2e-6)
        np.testing.assert_allclose(found[1:], np.tile(side, (4, 1)), atol=2e-6)


@pytest.mark.parametrize("seed", ["seed8620", "seed666"])
def test_the_seventh_places_blend_is_the_recorded_one(seed: str) -> None:
    at = recorded("seventh/arithmetic.json")["blend"]
    rng = np.random.RandomState(7204)
    members = softmax(np.concatenate([rng.standard_normal((1, 5, 5, 3)).astype(np.float32) for _ in "ab"]))
    shares = next(value for key, value in at.items() if key.startswith(f"{seed} weights of a"))
    weights = {group: {"a": a, "b": 1 - a} for group, a in zip(CONDITION_GROUPS, shares, strict=True)}
    found = weighed(settings(on="logits", weights=weights), members, ("a", "b"))
    np.testing.assert_allclose(found, at[seed], atol=1e-5)
