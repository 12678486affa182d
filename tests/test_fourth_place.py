"""The fourth place's networks beside their recorded numbers: what is masked, and what the auxiliary heads are asked.

What differs, and why: a stack of exactly as many slices as fit is all there, where the original takes all of it for
padding (`pad_mask_exp107`), and what is padding is masked in the transformer, too, where the original masks it before.
"""

import json
import os
from pathlib import Path

import pytest
import torch

from lumbar.grading.networks.registry import build_grader
from lumbar.recipe.grader import GraderSpec
from lumbar.recipe.recipe import load_recipe
from lumbar.recipe.settings import Training
from lumbar.training.loop.grader_losses import Truth, loss_of
from tests.conftest import ROOT

PARITY = Path(os.environ.get("LUMBAR_PARITY", ROOT.parent / "shared" / "parity"))
SPEC = GraderSpec(
    views=["axial_left", "axial_right"],
    conditions=["left_subarticular_stenosis", "right_subarticular_stenosis"],
    network="condition_attention",
    backbone_args={"channels": [8, 8, 16, 16], "layers": [1, 1, 1, 1]},
    image_size=32,
    network_args={"hidden": 16, "heads": 2, "inner": 16, "encoders": "one", "positions": "view", "auxiliary": "all"},
)


@pytest.mark.skipif(not (PARITY / "fourth").is_dir(), reason="needs the recorded numbers in ../shared/parity")
def test_a_full_stack_is_no_padding() -> None:
    told = json.loads((PARITY / "fourth" / "arithmetic.json").read_text(encoding="utf-8"))["pad_mask_exp107"]
    network, room, differs = build_grader(SPEC).eval(), told["in_chans"], []
    seen: list[torch.Tensor] = []
    network.get_submodule("heads").register_forward_pre_hook(lambda _, given: seen.append(given[1][0, :, 0]))
    for count, recorded in told["slices_to_pad_mask"]:
        shown = min(count, room)  # a longer stack is brought to as many
        stack = torch.cat([torch.randn(1, 1, shown, 1, 32, 32), torch.zeros(1, 1, room - shown, 1, 32, 32)], dim=2)
        with torch.inference_mode():
            network({"axial_left": stack, "axial_right": stack}, torch.ones(1, 1, 2, dtype=torch.bool))
        own = (~seen.pop()[:room]).float().tolist()
        if own != recorded:
            differs.append((count, own))
    assert differs == [(room, [0.0] * room)]


def test_padding_changes_nothing_that_the_transformer_says() -> None:
    network, seen = build_grader(SPEC).eval(), torch.ones(1, 1, 2, dtype=torch.bool)
    stacks = {view: torch.randn(1, 1, 3, 1, 32, 32) for view in SPEC.views}
    longer = {view: torch.cat([stack, torch.zeros(1, 1, 2, 1, 32, 32)], dim=2) for view, stack in stacks.items()}
    network.training = True  # so that it gives both answers
    with torch.inference_mode():
        plain, padded = network(stacks, seen), network(longer, seen)
    torch.testing.assert_close(padded, plain)


def test_auxiliary_heads_are_asked_for_the_severities_of_the_sample() -> None:
    truth, said = Truth(Training(), torch.tensor([[[0, 2]], [[-1, 1]]])), torch.randn(2, 1, 2, 3)
    assert loss_of("auxiliary", said, truth) == loss_of("severity", said, truth)


def parts(name: str) -> set[tuple[object, ...]]:
    """What kinds of members a recipe has: what they see, their network and how that answers."""
    found: set[tuple[object, ...]] = set()
    recipe = load_recipe(ROOT / "recipes" / name)
    for member in recipe.stage1.members.values():
        one = member.spec
        own = one.network, one.placed, one.decoded, one.target, one.tta, one.looks, one.pad, member.training.unlabelled
        found.add((one.series_type, *own, *sorted(member.losses)))
    for grader in recipe.stage2.members.values():
        two, sorts = grader.spec, sorted(grader.losses)
        regions = [two.region_of(view) for view in two.views]
        cut = tuple(
            (view, one.box, one.span, one.around, one.pad) for view, one in zip(two.views, regions, strict=True)
        )
        form = {key: value for key, value in two.network_args.items() if isinstance(value, str)}
        found.add((two.network, two.conditions, two.tta, cut, *sorted(form.items()), *sorts))
    return found


def test_the_small_recipe_has_the_parts_of_the_large_one() -> None:
    large, small = parts("fourth_place.toml"), parts("small/fourth_place.toml")
    assert small == large
    assert len(large) == 7 + 6
    assert load_recipe(ROOT / "recipes" / "fourth_place.toml").blend.method == "stack_raw"
    blend = load_recipe(ROOT / "recipes" / "small" / "fourth_place.toml").blend
    assert sum(blend.weights["spinal"].values()) == pytest.approx(
        0.9
    )  # of the original's, which it divides by their sum
    assert blend.weights["subarticular"]["transformers"] == 0.15


def test_each_pipeline_has_sagittal_points_of_its_own_and_both_have_the_axial_ones() -> None:
    recipe = load_recipe(ROOT / "recipes" / "fourth_place.toml")
    sets = recipe.stage1.sets
    assert {name for name in sets["tattaka"] if not name.startswith("t_")} == {"y_axial_slices", "y_axial"}
    assert {*sets["yu4u"]} == {"y_t2", "y_t1_slices", "y_t1"}
    for name, member in recipe.stage2.members.items():
        axial = all(view.startswith("axial") for view in member.spec.views)
        assert member.spec.sets == (("tattaka",) if name.startswith("t_") or axial else ("yu4u",))
