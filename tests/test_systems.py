"""Several systems as one: a recipe that names others, their bundles joined, and what a time budget leaves of them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import train_utils
from lumbar.bundle.blend import FittedBlend
from lumbar.bundle.bundle import Bundle, load_bundle
from lumbar.bundle.join import join_bundles
from lumbar.bundle.network import build_network
from lumbar.bundle.save import Weights, save_bundle
from lumbar.ensemble import methods
from lumbar.ensemble.store import Blender
from lumbar.issues import InputError
from lumbar.prediction.blend import BundleBlend
from lumbar.prediction.budget import enough, ranked_graders
from lumbar.prediction.predictor import Predictor
from lumbar.recipe.blend import Blend
from lumbar.recipe.recipe import Recipe, check_recipe, load_recipe
from lumbar.study.study import open_data, read_study
from lumbar.training.folder import RunFolder
from lumbar.training.outcome.blending import weighed
from tests.conftest import ROOT
from tests.support.small_recipe import MATRIX, one_of_a_kind, turned
from tests.support.tiny_recipe import DETECTORS, GRADERS, beginning, tiny_recipe
from tests.support.worlds import detector_spec, grader_spec, small_phantoms, tiny_weights
from tests.test_blend import world
from tests.test_recipes import SWAPPED, TOGETHER, filled, has_a_mirror, leads_to_a_submission, with_its_twin

ENSEMBLE = ROOT / "recipes" / "ensemble.toml"
PLACES = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth")
PRIOR = np.full((5, 5, 3), 1 / 3)


def alone(name: str) -> Recipe:
    return load_recipe(ROOT / "recipes" / f"{name}_place.toml")


# ---- the recipe ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PLACES)
def test_each_system_of_the_ensemble_is_its_own_recipe(name: str) -> None:
    """Every member, key by key; only names are others, and graders say around whose keypoints they answer."""
    whole, own = load_recipe(ENSEMBLE), alone(name)
    for stage in ("stage1", "stage2"):
        found, wanted = getattr(whole, stage).members, getattr(own, stage).members
        assert [each for each in found if each.startswith(f"{name}_")] == [f"{name}_{each}" for each in wanted]
        for each, member in wanted.items():
            spec, training = found[f"{name}_{each}"].spec, found[f"{name}_{each}"].training
            begun = {
                key: f"{name}_{told}" for key in ("begins_with", "taught_by") if (told := getattr(member.training, key))
            }
            assert training == member.training.model_copy(update=begun)
            assert spec == member.spec.model_copy(update={"sets": spec.sets} if stage == "stage2" else {})
    sets = {f"{name}_{each}": names for each, names in own.stage1.sets.items()} or {name: tuple(own.stage1.bundled())}
    for each, names in sets.items():
        assert whole.stage1.sets[each] == tuple(f"{name}_{one}" for one in names)
    for each, member in own.stage2.members.items():
        asked = tuple(f"{name}_{one}" for one in member.spec.sets) or tuple(sets)
        assert whole.stage2.members[f"{name}_{each}"].spec.sets == asked


@pytest.mark.parametrize("name", PLACES)
def test_each_system_of_the_ensemble_keeps_its_blend(name: str) -> None:
    inner, own = load_recipe(ENSEMBLE).blend.inner[name], alone(name).blend
    assert inner.members == tuple(f"{name}_{each}" for each in alone(name).stage2.bundled())
    told = json.dumps(inner.model_dump(exclude={"members"})).replace(f'"{name}_', '"')
    assert Blend.model_validate_json(json.dumps({"method": "weighted", **json.loads(told)})) == own


def test_the_ensemble_is_a_recipe_like_any_other() -> None:
    whole = load_recipe(ENSEMBLE)
    assert check_recipe(whole.model_dump(mode="json"), "stored") == whole
    assert "systems" not in whole.model_dump()
    changed = load_recipe(ENSEMBLE, ["stage2.epochs=1", "stage1.members.ninth_axial_t2.epochs=2"])
    assert {each.training.epochs for each in changed.stage2.members.values()} == {1}
    assert changed.stage1.members["ninth_axial_t2"].training.epochs == 2


def ensemble(folder: Path, systems: Mapping[str, str], rest: str = "") -> Path:
    """A recipe of systems whose files lie beside it."""
    lines = [f'{name} = "{file}"\n' for name, file in systems.items()]
    path = folder / "all.toml"
    path.write_text(beginning().replace("tiny", "all") + rest + "[systems]\n" + "".join(lines), encoding="utf-8")
    return path


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A folder with the recipes `one` and `two`."""
    for name in ("one", "two"):
        (tmp_path / f"{name}.toml").write_text(tiny_recipe(), encoding="utf-8")
    return tmp_path


def test_systems_may_hold_systems(tiny: Path) -> None:
    ensemble(tiny, {"a": "one.toml", "b": "two.toml"}).rename(tiny / "both.toml")
    whole = load_recipe(ensemble(tiny, {"x": "both.toml", "y": "one.toml"}))
    assert list(whole.blend.inner) == ["x", "y"]
    assert list(whole.blend.inner["x"].inner) == ["a", "b"]
    assert whole.blend.inner["x"].inner["b"].members[0] == "x_b_spinal_split"
    assert list(whole.stage1.sets) == ["x_a", "x_b", "y"]


@pytest.mark.parametrize(
    ("systems", "rest", "words"),
    [
        ({"a": "one.toml", "b": "none.toml"}, "", "systems.b names 'none.toml', and there is no such file beside it"),
        ({"a": "one.toml", "b": "all.toml"}, "", "systems come back to"),
        ({}, "", "systems names recipes by a name for each"),
        ({'"a/b"': "one.toml"}, "", "systems.a/b: a name holds letters"),
        ({"a": "one.toml"}, "[stage2]\nepochs = 3\n", "[stage2] is what its systems have there"),
        ({"a": "one.toml"}, "[stage1.members.t2]\nin_chans = 3\n", "[stage1] is what its systems have there"),
        ({"a": "one.toml"}, "[blend.weights.spinal]\nb = 1\n", "blend.weights.spinal names 'b', which is no member"),
        (
            {"a": "one.toml"},
            '[blend.inner.a]\nmethod = "mean"\n',
            "blend.inner.a has the name of a system",
        ),
        ({"a": "one.toml"}, "[blend]\ninner = 3\n", "blend is {'inner': 3}; write a table [blend]"),
        ({"a": "bad.toml"}, "", "bad.toml: stage2: unknown key 'epoch'; did you mean 'epochs'?"),
    ],
)
def test_systems_that_cannot_be_are_told_in_one_sentence(
    tiny: Path, systems: dict[str, str], rest: str, words: str
) -> None:
    (tiny / "bad.toml").write_text(tiny_recipe(stage2={"epoch": 3}), encoding="utf-8")
    with pytest.raises(InputError) as told:
        load_recipe(ensemble(tiny, systems, rest))
    assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_two_systems_that_come_to_one_name_are_told(tiny: Path) -> None:
    named = tiny_recipe(DETECTORS, {"b_c": GRADERS["whole"]}), tiny_recipe(DETECTORS, {"c": GRADERS["whole"]})
    for name, text in zip(("one", "two"), named, strict=True):
        (tiny / f"{name}.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"systems\.a and systems\.a_b both have a 'a_b_c' then"):
        load_recipe(ensemble(tiny, {"a": "one.toml", "a_b": "two.toml"}))


def test_whoever_wants_a_blend_by_itself_names_its_members(tiny: Path) -> None:
    text = tiny_recipe() + '[blend]\nmethod = "weighted"\n[blend.inner.a]\nmethod = "median"\n'
    (tiny / "one.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r'method makes it a blend by itself; name its members, as members = \["a"'):
        load_recipe(tiny / "one.toml")


# ---- their bundles ---------------------------------------------------------------------------------------------------


def system(folder: Path, seed: int, blend: Mapping[str, Any] | None = None, *, axial: bool = True) -> Bundle:
    """A tiny system of two folds; without a detector and a view on axial slices, if asked for."""
    torch.manual_seed(seed)
    specs: dict[str, Any] = {"canal": detector_spec("sagittal_t2", 5, 5), "foramen": detector_spec("sagittal_t1", 3, 5)}
    if axial:
        specs |= {"recess": detector_spec("axial_t2", 3, 2)}
    tasks = ("spinal", "foraminal", "subarticular") if axial else ("spinal", "foraminal")
    specs |= {task: grader_spec(task) for task in tasks}
    members = [
        Weights(f"{name}_fold{fold}", spec, build_network(spec).state_dict(), fold=fold)
        for name, spec in specs.items()
        for fold in range(2)
    ]
    names = {task: [f"{task}_fold{fold}" for fold in range(2)] for task in tasks}
    settings = Blend.model_validate(blend or {"method": "mean"})
    stored: Any = weighed(settings, names, PRIOR) if settings.method == "weighted" else "mean"
    if settings.method == "cells":
        tables, codes = world(40, seed=seed, silent=0.0)
        fitted = methods.fit("cells", methods_cells(tables[:, : len(names)]), codes)
        stored = FittedBlend(Blender(fitted, tuple(names), PRIOR), names)
    return save_bundle(folder, members, prior=PRIOR, blend=stored, around=settings, precision="float32")


def methods_cells(tables: np.ndarray) -> Any:
    from lumbar.ensemble.cells import Cells

    return Cells(tables, PRIOR)


WEIGHED = {
    "method": "weighted",
    "on": "logits",
    "temperatures": {"spinal": 0.7},
    "severe_scaled": 1.25,
    "weights": {"spinal": {"pair": 2, "spinal": 1}},
    "inner": {
        "pair": {
            "on": "odds",
            "weights": {group: {group: 1} for group in ("spinal", "foraminal", "subarticular")},
            "multipliers": {"spinal": [1, 2, 5]},
        }
    },
}


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    root = tmp_path_factory.mktemp("systems")
    return {
        "plain": system(root / "plain", 1),
        "weighed": system(root / "weighed", 2, WEIGHED),
        "fitted": system(root / "fitted", 3, {"method": "cells"}, axial=False),
    }


@pytest.fixture(scope="module")
def joined(bundles: dict[str, Bundle], tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("joined") / "weights"
    words = [f"{name}={bundle.folder}" for name, bundle in bundles.items()]
    assert train_utils.main(["bundle", "--join", *words, "--out", str(out)]) == 0
    return load_bundle(out)


def test_a_joined_bundle_blends_what_each_system_answers_by_itself(bundles: dict[str, Bundle], joined: Bundle) -> None:
    """Own folds, own fits, own temperatures and factors; equal shares where several speak."""
    drawn = np.random.default_rng(4).dirichlet([2, 1, 1], size=(len(joined.manifest.graders), 5, 5))
    drawn[0, 0, 2] = np.nan  # a fold of the first is silent
    names = list(joined.manifest.graders)
    told = []
    for name, bundle in bundles.items():
        own = [names.index(f"{name}_{each}") for each in bundle.manifest.graders]
        table, spoken = BundleBlend(bundle, list(bundle.manifest.graders))(drawn[own])
        told.append(np.where(spoken[..., None], table, np.nan))
    blended, spoken = BundleBlend(joined, names)(drawn)
    assert spoken.all()
    np.testing.assert_allclose(blended, np.nanmean(told, axis=0), atol=1e-12)
    assert not np.allclose(told[0], told[1], atol=0.01)


def test_each_grader_of_a_joined_bundle_goes_by_its_own_systems_keypoints(
    bundles: dict[str, Bundle], joined: Bundle, tmp_path: Path
) -> None:
    data = open_data(small_phantoms(tmp_path, 1, 7))
    study = read_study(data, data.study_ids[0])
    found = Predictor(joined, engine="eager")(study)
    alone = {name: Predictor(bundle, engine="eager")(study) for name, bundle in bundles.items()}
    np.testing.assert_array_equal(found.members, np.concatenate([each.members for each in alone.values()]))
    assert found.keypoints == alone["plain"].keypoints
    assert alone["weighed"].keypoints != alone["plain"].keypoints
    there = np.stack([each.graded for each in alone.values()])[..., None]
    mean = np.stack([each.probabilities for each in alone.values()]).sum(axis=0, where=there) / there.sum(axis=0).clip(
        1
    )
    np.testing.assert_allclose(found.probabilities, np.where(there.any(axis=0), mean, PRIOR), atol=1e-12)


def test_a_recipe_says_the_shares_of_joined_systems(bundles: dict[str, Bundle], tiny: Path) -> None:
    shares = "[blend]\nweights.spinal = { one = 3, two = 1 }\n[blend.multipliers]\nspinal = [1, 1, 2]\n"
    path = ensemble(tiny, {"one": "one.toml", "two": "two.toml"}, shares)
    pairs = [("one", bundles["plain"].folder), ("two", bundles["weighed"].folder)]
    bundle = join_bundles(pairs, tiny / "weights", path)
    drawn = np.random.default_rng(5).dirichlet([2, 1, 1], size=(12, 5, 5))
    one, two = (
        BundleBlend(each, list(each.manifest.graders))(drawn[part])[0]
        for each, part in ((bundles["plain"], slice(0, 6)), (bundles["weighed"], slice(6, 12)))
    )
    blended = BundleBlend(bundle, list(bundle.manifest.graders))(drawn)[0]
    wanted = (3 * one[0] + two[0]) / 4 * [1, 1, 2]
    np.testing.assert_allclose(blended[0], wanted / wanted.sum(axis=-1, keepdims=True), atol=1e-12)
    np.testing.assert_allclose(blended[1:], (one[1:] + two[1:]) / 2, atol=1e-12)
    again = join_bundles([("x", bundle.folder), ("y", bundles["plain"].folder)], tiny / "twice")  # of joined ones, too
    assert again.manifest.blend.inner["x"].inner.keys() == {"one", "two"}
    assert list(again.manifest.sets) == ["x_one", "x_two", "y"]
    with pytest.raises(InputError, match="blends one, two, and the bundles are one; give one for each of its systems"):
        join_bundles(pairs[:1], tiny / "weights", path)
    with pytest.raises(InputError, match="names a system twice"):
        join_bundles([pairs[0], pairs[0]], tiny / "weights")
    with pytest.raises(InputError, match="'a b': a name holds letters"):
        join_bundles([("a b", pairs[0][1])], tiny / "weights")


def test_a_time_budget_leaves_the_first_of_every_system_and_what_a_fit_needs(joined: Bundle) -> None:
    order = ranked_graders(joined.manifest)
    assert [name.endswith("fold0") for name in order] == [True] * 8 + [False] * 8
    kept = list(order)
    for name in reversed(order):
        rest = [each for each in kept if each != name]
        kept = rest if enough(joined.manifest, rest) else kept
    assert {"fitted_spinal_fold0", "fitted_foraminal_fold0"} < set(kept)  # its blend is fitted on both
    assert any("subarticular" in name for name in kept)  # which nobody else answers
    assert len(kept) == 3
    drawn = np.full((len(order), 5, 5, 3), np.nan)
    drawn[[list(joined.manifest.graders).index(name) for name in kept]] = [0.5, 0.3, 0.2]
    assert np.isfinite(BundleBlend(joined, list(joined.manifest.graders))(drawn)[0]).all()


def test_where_memory_holds_no_network_of_each_kind_they_take_turns_and_answer_the_same(
    tmp_path: Path,
) -> None:
    bundle = save_bundle(tmp_path / "weights", tiny_weights(3), prior=PRIOR, precision="float32")
    data = open_data(small_phantoms(tmp_path / "data", 2, 7))
    wide, narrow = Predictor(bundle, engine="fused"), Predictor(bundle, engine="fused", room=0)
    assert (wide.networks.crowded, narrow.networks.crowded) == (False, True)
    assert narrow.networks.turns
    for study_id in data.study_ids:
        study = read_study(data, study_id)
        one, other = wide(study), narrow(study)
        np.testing.assert_array_equal(one.members, other.members)
        assert one.keypoints == other.keypoints
    bytes_held = [
        sum(value.untyped_storage().nbytes() for value in runner.network.state_dict().values())
        for runner in narrow.networks.runners()
    ]
    assert sum(size > 0 for size in bytes_held) == 1
    assert all(
        all(value.untyped_storage().nbytes() for value in runner.network.state_dict().values())
        for runner in wide.networks.runners()
    )


# ---- from studies to a submission ------------------------------------------------------------------------------------


def three(folder: Path) -> Path:
    """Three of the nine made small, as one recipe."""
    files = {name: one_of_a_kind(ROOT / "recipes" / f"{name}_place.toml", folder).name for name in TOGETHER}
    return ensemble(folder, files, '[stage2]\nkeypoints = "out_of_fold_or_label"\n')


@pytest.mark.slow
def test_small_systems_go_together_from_studies_to_a_submission(tmp_path: Path) -> None:
    data, run = small_phantoms(tmp_path / "data", 4, 3), tmp_path / "run"
    words = ["train", "--recipe", three(tmp_path), "--data", data, "--out", run]
    assert train_utils.main([str(word) for word in words]) == 0
    assert train_utils.main(["evaluate", "--run", str(run)]) == 0
    assert len(pd.read_csv(RunFolder(run).prediction_file("blend"))) == 4 * 25
    blend = leads_to_a_submission(run, tmp_path).manifest.blend
    assert {name: each.method for name, each in blend.inner.items()} == {
        "third": "weighted", "sixth": "cells", "ninth": "mean",
    }  # fmt: skip
    assert blend.inner["sixth"].every_file


@pytest.mark.slow
def test_a_mirrored_study_gets_mirrored_probabilities_of_systems_together(tmp_path: Path) -> None:
    recipe = turned(load_recipe(three(tmp_path), [f"stage1.image_size={MATRIX}"]), ["mirror"])
    bundle = filled(recipe, tmp_path / "weights")
    here, there = with_its_twin(bundle, tmp_path)
    sure = [has_a_mirror(spec) for spec in bundle.manifest.graders.values()]
    assert sum(sure) > 3
    np.testing.assert_allclose(there.members[sure][:, SWAPPED], here.members[sure], atol=1e-4)
