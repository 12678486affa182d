"""A training session on Kaggle finds what is attached and goes on with the last version's run; the packed notebook,
over several sessions, ends as one uninterrupted training."""

import json
import os
import shutil
import time
from pathlib import Path

import nbformat
import pytest
import torch
from safetensors.torch import load_file

import train_utils
from lumbar.issues import InputError
from lumbar.kaggle.inputs import COMPETITION
from lumbar.kaggle.session import HOME, Session, launcher, open_session
from tests.support.tiny_recipe import DETECTORS, tiny_recipe
from tests.support.worlds import small_phantoms
from tests.test_kaggle_rehearsal import at_kaggle, needs_namespaces, packed, python, wheels

__all__ = ["packed", "python", "wheels"]  # fixtures


def attach(tmp_path: Path, *runs: str, pretrained: bool = True) -> Path:
    """A `/kaggle` with the competition, and what else is asked for."""
    kaggle = tmp_path / "kaggle"
    folders = {f"competitions/{COMPETITION}": ["train.csv"], **{run: ["folds.csv", "labels.csv"] for run in runs}}
    if pretrained:
        folders["datasets/someone/lumbar-pretrained"] = ["pretrained.json"]
    for place, names in folders.items():
        folder = kaggle / "input" / place
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).write_text(f"{place}\n")
    for run in runs:
        folder = kaggle / "input" / run
        (folder / "recipe.json").write_text(json.dumps({"name": "demo"}))
        (folder / "members").mkdir()
        (folder / "members" / "best.safetensors").write_text(run)
        (folder / "cache").mkdir()
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
    (kaggle / "working").mkdir()
    return kaggle


def opened(kaggle: Path, recipe: str = "demo.toml", *settings: str) -> Session:
    return open_session(recipe, settings, kaggle=kaggle, here=kaggle.parent, say=lambda line: None)


RUN = "notebooks/someone/lumbar-training/run"


def test_a_first_session_finds_studies_recipe_and_pretrained_weights(tmp_path: Path) -> None:
    kaggle = attach(tmp_path)
    session = opened(kaggle, "ninth_place.toml", "seed=1")
    assert session.data == kaggle / "input" / "competitions" / COMPETITION
    assert session.previous is None
    assert "this is the first session" in str(session)
    words = session.words("train", "--hours", 2)
    assert words[:3] == ["train", "--recipe", str(HOME / "recipes" / "ninth_place.toml")]
    given = dict(zip(words[1:-4:2], words[2:-4:2], strict=True))
    assert given["--out"] == str(kaggle / "working" / "run")
    assert Path(given["--cache"]).parent == kaggle / "temp", "what Kaggle does not keep"
    assert given["--pretrained"] == str(kaggle / "input" / "datasets" / "someone" / "lumbar-pretrained")
    assert words[-4:] == ["--set", "seed=1", "--hours", "2"]
    assert session.finish() is None


def test_the_next_one_goes_on_with_a_copy_that_can_be_written(tmp_path: Path) -> None:
    kaggle = attach(tmp_path, RUN, pretrained=False)
    session = opened(kaggle)
    assert session.previous == kaggle / "input" / RUN
    assert session.pretrained is None
    assert "--pretrained" not in session.words("train")
    weights = session.run / "members" / "best.safetensors"
    assert weights.read_text() == RUN
    assert not (session.run / "cache").exists()
    weights.write_text("gone on")
    assert opened(kaggle).run == session.run, "the cell may run twice"
    assert weights.read_text() == "gone on"


def test_what_cannot_be_gone_on_with_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="a run of the recipe demo, not of third_place; detach it, or ask for demo"):
        opened(attach(tmp_path / "other", RUN), "third_place.toml")
    with pytest.raises(InputError, match=r"several runs are attached .*; detach all but the last version"):
        opened(attach(tmp_path / "two", RUN, "datasets/someone/run"))
    with pytest.raises(InputError, match=r"no recipe tenth\.toml; give a path, or one of .*small/third_place\.toml"):
        opened(attach(tmp_path / "none"), "tenth.toml")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match=r"found no studies with labels .* attach the competition"):
        opened(empty / "kaggle")
    monkeypatch.setenv("LUMBAR_RUN", str(empty))
    with pytest.raises(InputError, match=r"LUMBAR_RUN=.*: there is no recipe\.json in it"):
        opened(attach(tmp_path / "variable"))
    assert not list(tmp_path.rglob("working/run"))


def test_a_command_that_fails_stops_the_notebook(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    session = opened(attach(tmp_path), "demo.toml", "no setting")
    with pytest.raises(InputError, match="train ended with exit code 2; its reason stands above"):
        session.train(hours=1)
    assert "'no setting' is not KEY=VALUE" in capsys.readouterr().out


def test_two_gpus_get_a_process_each() -> None:
    assert launcher(0) == launcher(1) == []
    words = launcher(2)
    assert words[:2] == ["-m", "accelerate.commands.launch"]
    assert words[words.index("--num_processes") + 1] == "2"
    assert "--multi_gpu" in words


def edited(notebook: Path, target: Path, **values: object) -> Path:
    """The notebook with other values in its cell of settings, as a user types them."""
    book = nbformat.read(notebook, as_version=4)
    cell = next(cell for cell in book.cells if cell.source.startswith("RECIPE"))
    cell.source = "\n".join(f"{name} = {value!r}" for name, value in values.items())
    nbformat.write(book, target)
    return target


@pytest.mark.slow
def test_the_packed_notebook_trains_over_sessions_as_in_one(tmp_path: Path, packed: Path, python: Path) -> None:
    """Each session has the images with other times, an empty cache, and the output of the one before, read-only."""
    needs_namespaces()
    data = small_phantoms(tmp_path / "data", 4, 3)
    text = tiny_recipe(
        {"t2": DETECTORS["t2"]},
        {"spinal": {"task": "spinal"}},
        stage1={"epochs": 4},
        stage2={"epochs": 4, "keypoints": "labels"},
    )
    (tmp_path / "tiny.toml").write_text(text, encoding="utf-8")
    whole, began = tmp_path / "whole", time.monotonic()
    words = ["train", "--recipe", tmp_path / "tiny.toml", "--data", data, "--out", whole]
    assert train_utils.main([str(word) for word in words]) == 0
    took = time.monotonic() - began
    previous = tmp_path
    for session, hours in enumerate((0.4 * took / 3600, 1)):
        tree = tmp_path / f"session{session}"
        competition = tree / "input" / "competitions" / COMPETITION
        shutil.copytree(data, competition)
        for path in competition.rglob("*.dcm"):
            os.utime(path, (1e9 + session, 1e9 + session))
        shutil.copytree(packed / "dataset", tree / "input" / "datasets" / "someone" / "lumbar-weights")
        (tree / "usr").mkdir()
        (tree / "working").mkdir()
        shutil.copy(tmp_path / "tiny.toml", tree / "input" / "tiny.toml")
        if session:
            shutil.copytree(previous, tree / "input" / "notebooks" / "someone" / "lumbar-training")
        settings = {"RECIPE": "/kaggle/input/tiny.toml", "SETTINGS": [], "HOURS": hours}
        notebook = edited(packed / "training" / "training.ipynb", tmp_path / "typed.ipynb", **settings)
        command = [str(python), "-m", "nbconvert", "--to", "notebook", "--execute", "--output-dir", "/kaggle/working"]
        ended = at_kaggle(tree, [*command, "--output", "__notebook__.ipynb", str(notebook)], {})
        assert ended.returncode == 0, ended.stderr[-3000:]
        previous = tree / "working"
        shown = (previous / "__notebook__.ipynb").read_text()
        assert ("| member | folds |" in shown) is (session == 0), "the plan is told once"
        assert ("Not finished yet. Save this version" in shown) is (session == 0)
        assert (previous / "weights" / "manifest.json").is_file() is (session == 1)
        assert not list(previous.rglob("cache"))
    for name in ("t2", "spinal"):
        for fold in (0, 1):
            file = Path("members", name, f"fold{fold}", "best.safetensors")
            one, other = load_file(whole / file), load_file(previous / "run" / file)
            assert one.keys() == other.keys()
            assert all(torch.equal(one[key], other[key]) for key in one), file
    table = Path("predictions", "blend.csv")
    assert (whole / table).read_bytes() == (previous / "run" / table).read_bytes()
