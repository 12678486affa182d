"""The drawing of a system: what its cards say of a recipe, and the picture."""

from pathlib import Path

import pytest
from PIL import Image

import train_utils
from lumbar.drawing.charts import MARK
from lumbar.recipe.recipe import load_recipe
from lumbar.report.diagram import answer_cards, detector_cards, grader_cards
from tests.conftest import ROOT

RECIPES = sorted((ROOT / "recipes").rglob("*.toml"))


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_network_and_every_series_of_a_recipe_is_on_its_cards(path: Path) -> None:
    recipe = load_recipe(path)
    finding, grading = detector_cards(recipe), grader_cards(recipe)
    assert {kind for card in finding for kind in card.series} >= {
        member.spec.series_type for member in recipe.stage1.bundled().values()
    }
    for cards, members in ((finding, recipe.stage1.bundled()), (grading, recipe.stage2.bundled())):
        lines = [line for card in cards for line in card.lines if line.startswith("•")]
        for member in members.values():
            backbone = member.spec.backbone.removeprefix("tu-").partition(".")[0]
            assert any(member.spec.network in line and backbone in line for line in lines)
        counted = [int(line.split()[1]) if line.split()[2] == "×" else 1 for line in lines]
        assert sum(counted) == sum(len(recipe.folds_of(name)) for name in members)
    assert all(card.lines and 0 < len(card.title) < 70 for card in (*finding, *grading, *answer_cards(recipe)))


def test_the_ninth_place_reads_as_it_is() -> None:
    recipe = load_recipe(ROOT / "recipes" / "ninth_place.toml")
    t2, t1, axial = detector_cards(recipe)
    assert t2.title == "sagittal T2: slices in the middle"
    assert t2.lines[1] == "• 5 × deeplabv3plus on resnet34: heatmaps (5 slices, 512 px)"
    assert "10 foramina" in t1.lines[0]
    assert axial.lines[0] == "find 10 recesses, after sagittal T2"
    assert [card.title for card in grader_cards(recipe)] == ["spinal", "foraminal", "subarticular", "global"]


def test_a_picture_is_written_and_only_our_own_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["draw", "--recipe", str(ROOT / "recipes" / "demo.toml"), "--out", str(tmp_path)]
    for _ in range(2):  # the second time over our own
        assert train_utils.main(words) == 0
        with Image.open(tmp_path / "demo.png") as picture:
            assert picture.info["Software"] == MARK["Software"]
            assert picture.width > 800
    Image.new("L", (4, 4)).save(tmp_path / "demo.png")
    capsys.readouterr()
    assert train_utils.main(words) == 1
    assert "demo.png: is there already" in capsys.readouterr().err
