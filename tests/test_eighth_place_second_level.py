"""The eighth place's second level: 1D convolutions along what slices of studies not seen were answered."""

from pathlib import Path

import numpy as np
import pytest
import torch

import train_utils
from lumbar.bundle.network import build_network, noise, try_out
from lumbar.compute.tensors import load_tensors
from lumbar.grading.grade import batched, rows_of
from lumbar.grading.regions import cut_regions
from lumbar.issues import InputError
from lumbar.recipe.recipe import load_recipe
from lumbar.study.study import open_data, read_study
from lumbar.training.data.packs import read_arrays
from lumbar.training.folder import RunFolder
from lumbar.training.loop.checkpoint import read_weights
from tests.support.contract import fixed_weights
from tests.support.small_recipe import one_of_a_kind
from tests.support.whole_slices import ALONG, SLICES, SMALL, whole
from tests.support.worlds import small_phantoms
from tests.test_recipes import leads_to_a_submission


def test_the_second_level_looks_at_the_order_of_slices_and_at_each_view() -> None:
    spec = whole(network_args=ALONG)
    network = fixed_weights(build_network(spec)).eval()
    try_out(network, spec, "second level")
    views, seen = noise(spec, 1)
    with torch.inference_mode():
        plain = network(views, seen)
        assert torch.allclose(network(network.told(views), seen), plain, atol=1e-6)
        for name, view in views.items():
            assert not torch.allclose(network(views | {name: view.flip(2)}, seen), plain, atol=1e-4)
            without = seen & torch.tensor([other != name for other in views])
            blank = network(views | {name: torch.zeros_like(view)}, without)
            assert torch.allclose(network(views, without), blank, atol=1e-5)  # what is not seen says nothing


def test_arguments_of_the_second_level_need_it() -> None:
    with pytest.raises(InputError, match="set along = true"):
        build_network(whole(network_args={"hidden": 8}))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["slices_along.begins_with="], "slices_along: second_level learns from what the member that it begins with"),
        (["slices_along.image_size=64"], "learns from 'slices_first', which must see the same"),
        (["slices_first.folds=[0]", "slices_along.folds=[0]"], "'slices_first', which trains one fold only"),
        (['slices_along.augment.mix="mixup"'], "second_level looks at answers, not at pictures"),
        (['slices_first.augment.mix="mixup"'], "mixed samples have no label for the loss 'heatmaps'"),
    ],
)
def test_what_a_second_level_cannot_be_is_told(changes: list[str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        load_recipe(SMALL, [f"stage2.members.{change}" for change in changes])


def test_a_detector_has_no_second_level() -> None:
    with pytest.raises(InputError, match="second_level learns from severities, and a detector has none"):
        load_recipe(SMALL, ["stage1.second_level=true"])


@pytest.mark.slow
def test_a_second_level_learns_from_what_is_said_of_studies_not_seen(tmp_path: Path) -> None:
    """Each study's table is what the network says whose fold held it out; then a person may look at its labels."""
    small_phantoms(tmp_path / "data", 4, 3)
    recipe = one_of_a_kind(SMALL, tmp_path)
    words = ["train", "--recipe", recipe, "--data", tmp_path / "data", "--out", tmp_path / "run"]
    assert train_utils.main([str(word) for word in words]) == 0
    folder, read = RunFolder(tmp_path / "run"), load_recipe(recipe)
    first, second = (read.stage2.members[name] for name in ("slices_first", "slices_along"))
    fold_of = folder.folds().set_index("study_id")["fold"]
    assert set(fold_of) == {0, 1}
    data = open_data(tmp_path / "data")
    for study, own in fold_of.items():
        regions = cut_regions(read_study(data, int(study)), {}, first.spec)
        views, _ = batched(rows_of(regions, first.spec), first.spec)
        said = {}
        for fold in (0, 1):
            network = build_network(first.spec).eval()
            read_weights(network, folder.member("slices_first", fold) / "best.safetensors")
            with torch.inference_mode():
                said[fold] = network.told(views)
        table, _ = read_arrays(folder.cache / "told" / "slices_first" / f"{study}.safetensors")
        for view in SLICES:
            apart = {fold: np.abs(table[view] - said[fold][view][0].numpy()).max() for fold in said}
            assert apart[own] < 0.1 < apart[1 - own]  # images of the cache have eight bits
    before, after = (
        load_tensors(folder.member(name, 0) / "best.safetensors") for name in ("slices_first", "slices_along")
    )
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert {name.partition(".")[0] for name in after.keys() - before.keys()} == {"along"}
    assert not second.spec.speaks_for
    rows = folder.root / "rows.csv"
    rows.write_text(f"row_id\n{fold_of.index[0]}_spinal_canal_stenosis_l3_l4\n")
    words = ["relabel", "--run", folder.root, "--rows", rows, "--out", tmp_path / "page.html"]
    assert train_utils.main([str(word) for word in words]) == 0
    assert "slices_along" in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "slices_along_fold0" in leads_to_a_submission(folder.root, tmp_path).manifest.graders
