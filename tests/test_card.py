"""A bundle's card says what its manifest says, and figures get there through files that benchmarks write."""

import json
from pathlib import Path

import pytest
from test_bundle import DETECTOR, PRIOR, weights

import train_utils
from lumbar.bundle.bundle import load_bundle
from lumbar.bundle.manifest import MANIFEST
from lumbar.bundle.network import build_network
from lumbar.bundle.save import Weights, save_bundle
from lumbar.recipe.card import Card, Measured, Source, write_measured

TABLE = Measured(
    title="Keypoint error", command="python measure.py", columns=("images", "median, mm"), rows=(("phantoms", 1.5),)
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    card = Card(
        licence="MIT",
        data=(Source(name="SPIDER", used="T2 slices", licence="CC BY 4.0", credit="van der Graaf et al."),),
        held_out_patients=(2, 7),
        commands=("python train_utils.py train",),
        limits=("No diagnosis.",),
    )
    members = [weights(), Weights("canal", DETECTOR, build_network(DETECTOR).state_dict(), fold=0)]
    save_bundle(tmp_path / "bundle", members, prior=PRIOR, description="for tests", card=card)
    return tmp_path / "bundle"


def write(folder: Path, *more: str) -> str:
    assert train_utils.main(["card", "--weights", str(folder), *more]) == 0
    return (folder / "README.md").read_text(encoding="utf-8")


def test_the_card_says_what_the_manifest_knows(folder: Path) -> None:
    text = write(folder)
    for said in ("not for clinical decisions", "for tests", "CC BY 4.0", "van der Graaf", ": 2, 7.", "No diagnosis."):
        assert said in text
    assert "| spinal_fold0 |" in text
    assert load_bundle(folder).identity[:12] in text
    assert write(folder) == text


def test_figures_go_into_the_manifest_and_newer_ones_replace_them(folder: Path, tmp_path: Path) -> None:
    write_measured([TABLE], tmp_path / "figures.json")
    before = load_bundle(folder).identity
    assert "| phantoms | 1.5 |" in write(folder, "--measured", str(tmp_path / "figures.json"))
    assert load_bundle(folder).identity != before
    assert json.loads((folder / MANIFEST).read_text())["card"]["measured"][0]["title"] == "Keypoint error"
    write_measured([TABLE.model_copy(update={"rows": (("phantoms", None),)})], tmp_path / "figures.json")
    text = write(folder, "--measured", str(tmp_path / "figures.json"))
    assert "| phantoms | – |" in text
    assert "1.5" not in text


def test_a_file_without_figures_is_one_sentence(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "figures.json").write_text("{}")
    assert train_utils.main(["card", "--weights", str(folder), "--measured", str(tmp_path / "figures.json")]) == 1
    assert "figures.json: no tables of figures" in capsys.readouterr().err
    assert not (folder / "README.md").exists()
